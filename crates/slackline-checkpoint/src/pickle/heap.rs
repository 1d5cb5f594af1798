//! The values of a pickle. Objects are in one arena and refer to each other by index, so that dropping shared, cyclic or
//! deeply nested ones cannot overflow the stack.

use crate::DType;

/// A value on the machine's stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value {
    None,
    Bool(bool),
    Int(i64),
    /// A float, a long integer, bytes or a string that is too long: no tensor can depend on it.
    Scalar,
    Object(ObjectId),
}

pub(crate) type ObjectId = u32;

#[derive(Debug)]
pub(crate) enum Object {
    Text(Box<str>),
    /// A tuple or a list.
    Sequence(Vec<Value>),
    Dict(Vec<(Value, Value)>),
    Global(Global, Box<str>),
    Storage(Storage),
    Tensor(Tensor),
    /// The result of a call of the global with this id, which was not called.
    Opaque(ObjectId),
}

/// A Python object that a pickle names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Global {
    OrderedDict,
    DefaultDict,
    Size,
    RebuildTensor,
    RebuildTensorV2,
    RebuildTensorV3,
    RebuildParameter,
    RebuildFromType,
    RebuildWrapperSubclass,
    /// A class of tensors that adds nothing to their elements.
    PlainTensor,
    /// A storage class or a dtype, by its index in [`TYPES`].
    Type(usize),
    Unknown,
}

/// An element type by its PyTorch names.
pub(crate) struct TorchType {
    /// The class of its typed storage; empty if there is none.
    storage: &'static str,
    /// The `torch.dtype`.
    dtype: &'static str,
    known: Option<DType>,
    /// Bytes of one element.
    pub(crate) size: u64,
}

const fn torch_type(storage: &'static str, dtype: &'static str, known: Option<DType>, size: u64) -> TorchType {
    TorchType { storage, dtype, known, size }
}

pub(crate) static TYPES: [TorchType; 24] = [
    torch_type("FloatStorage", "float32", Some(DType::F32), 4),
    torch_type("DoubleStorage", "float64", Some(DType::F64), 8),
    torch_type("HalfStorage", "float16", Some(DType::F16), 2),
    torch_type("BFloat16Storage", "bfloat16", Some(DType::BF16), 2),
    torch_type("LongStorage", "int64", Some(DType::I64), 8),
    torch_type("IntStorage", "int32", Some(DType::I32), 4),
    torch_type("ShortStorage", "int16", Some(DType::I16), 2),
    torch_type("CharStorage", "int8", Some(DType::I8), 1),
    torch_type("ByteStorage", "uint8", Some(DType::U8), 1),
    torch_type("BoolStorage", "bool", Some(DType::Bool), 1),
    torch_type("UntypedStorage", "", Some(DType::U8), 1),
    torch_type("", "uint16", Some(DType::U16), 2),
    torch_type("", "uint32", Some(DType::U32), 4),
    torch_type("", "uint64", Some(DType::U64), 8),
    torch_type("ComplexFloatStorage", "complex64", None, 8),
    torch_type("ComplexDoubleStorage", "complex128", None, 16),
    torch_type("QInt8Storage", "qint8", None, 1),
    torch_type("QUInt8Storage", "quint8", None, 1),
    torch_type("QInt32Storage", "qint32", None, 4),
    torch_type("", "float8_e4m3fn", None, 1),
    torch_type("", "float8_e5m2", None, 1),
    torch_type("", "float8_e4m3fnuz", None, 1),
    torch_type("", "float8_e5m2fnuz", None, 1),
    torch_type("", "complex32", None, 4),
];

impl TorchType {
    pub(crate) fn dtype(&self) -> DType {
        self.known.clone().unwrap_or_else(|| DType::Other(format!("torch.{}", self.dtype)))
    }
}

impl Global {
    pub(crate) fn named(module: &str, name: &str) -> Self {
        match (module, name) {
            ("collections", "OrderedDict") => Global::OrderedDict,
            ("collections", "defaultdict") => Global::DefaultDict,
            ("torch", "Size") => Global::Size,
            ("torch._utils", "_rebuild_tensor") => Global::RebuildTensor,
            ("torch._utils", "_rebuild_tensor_v2") => Global::RebuildTensorV2,
            ("torch._utils", "_rebuild_tensor_v3") => Global::RebuildTensorV3,
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => Global::RebuildParameter,
            ("torch._tensor", "_rebuild_from_type_v2") => Global::RebuildFromType,
            ("torch._utils", "_rebuild_wrapper_subclass") => Global::RebuildWrapperSubclass,
            ("torch" | "torch._tensor", "Tensor") | ("torch.nn.parameter", "Parameter" | "Buffer") => {
                Global::PlainTensor
            }
            ("torch" | "torch.cuda" | "torch.storage", _) if !name.is_empty() => TYPES
                .iter()
                .position(|t| t.storage == name || (module == "torch" && t.dtype == name))
                .map_or(Global::Unknown, Global::Type),
            _ => Global::Unknown,
        }
    }
}

/// A reference to a storage.
#[derive(Debug, Clone)]
pub(crate) struct Storage {
    pub(crate) key: Box<str>,
    /// Index in [`TYPES`].
    pub(crate) ty: usize,
    pub(crate) elements: u64,
    /// The first element: in the legacy format, a storage can be a view of the one named by `key`.
    pub(crate) first: u64,
    /// Position of the reference in the file.
    pub(crate) at: u64,
}

/// The description of a tensor, not yet checked against its storage.
#[derive(Debug, Clone)]
pub(crate) struct Tensor {
    pub(crate) storage: ObjectId,
    /// Index in [`TYPES`].
    pub(crate) ty: usize,
    /// Elements of the storage before its first.
    pub(crate) offset: u64,
    pub(crate) shape: Box<[usize]>,
    /// In elements.
    pub(crate) strides: Box<[u64]>,
    /// What makes its values others than those stored.
    pub(crate) twist: Option<Twist>,
}

/// What makes the values of a tensor others than the stored ones. Such a tensor is listed and not read.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Twist {
    /// A view of the negated values, which `torch._neg_view` and the imaginary part of a conjugate are.
    Negative,
    Conjugate,
    /// Metadata of the view that is not known.
    Metadata,
    /// A subclass, the global of this id, which may make anything of its elements.
    Class(ObjectId),
}

/// Bytes of memory for the values of one pickle.
pub(crate) const MAX_HEAP_BYTES: usize = 192 << 20;

/// The arena of the objects of one pickle.
#[derive(Debug, Default)]
pub(crate) struct Heap {
    objects: Vec<Object>,
    charged: usize,
}

/// The values need more than [`MAX_HEAP_BYTES`].
#[derive(Debug)]
pub(crate) struct Full;

impl Heap {
    pub(crate) fn get(&self, id: ObjectId) -> &Object {
        &self.objects[id as usize]
    }

    pub(crate) fn get_mut(&mut self, id: ObjectId) -> &mut Object {
        &mut self.objects[id as usize]
    }

    /// Adds an object that owns `content` bytes outside of the arena.
    pub(crate) fn add(&mut self, object: Object, content: usize) -> Result<Value, Full> {
        // Twice: vectors grow by doubling.
        self.charge(2 * size_of::<Object>() + content)?;
        let id = self.objects.len() as ObjectId;
        self.objects.push(object);
        Ok(Value::Object(id))
    }

    pub(crate) fn charge(&mut self, bytes: usize) -> Result<(), Full> {
        self.charged = self.charged.saturating_add(bytes);
        if self.charged > MAX_HEAP_BYTES { Err(Full) } else { Ok(()) }
    }

    /// All objects, by id.
    pub(crate) fn objects(&self) -> &[Object] {
        &self.objects
    }

    pub(crate) fn text(&self, value: Value) -> Option<&str> {
        match value {
            Value::Object(id) => match self.get(id) {
                Object::Text(text) => Some(text),
                _ => None,
            },
            _ => None,
        }
    }

    pub(crate) fn sequence(&self, value: Value) -> Option<&[Value]> {
        match value {
            Value::Object(id) => match self.get(id) {
                Object::Sequence(items) => Some(items),
                _ => None,
            },
            _ => None,
        }
    }

    /// The type of a tensor's elements, by PyTorch's name, with what keeps them from being read.
    pub(crate) fn twisted(&self, ty: &TorchType, twist: Twist) -> DType {
        let what = match twist {
            Twist::Negative => "whose view negates them".to_owned(),
            Twist::Conjugate => "whose view conjugates them".to_owned(),
            Twist::Metadata => "whose view has unknown metadata".to_owned(),
            Twist::Class(id) => match self.get(id) {
                Object::Global(_, name) => format!("of the class {name}"),
                _ => "of an unknown class".to_owned(),
            },
        };
        DType::Other(format!("torch.{} {what}", ty.dtype))
    }

    /// The name of the global that `value` is, or was made by, if that is an unknown one.
    pub(crate) fn unknown_global(&self, value: Value) -> Option<&str> {
        let Value::Object(id) = value else { return None };
        match self.get(id) {
            Object::Global(Global::Unknown, name) => Some(name),
            Object::Opaque(of) => match self.get(*of) {
                Object::Global(_, name) => Some(name),
                _ => None,
            },
            _ => None,
        }
    }
}
