//! The calls and references that a pickled tensor is made of.

use super::fault::{Fault, Step};
use super::heap::{Global, Heap, Object, ObjectId, Storage, TYPES, Tensor, Twist, Value};
use crate::limits::MAX_DIMENSIONS;

/// The value of `callable(*args)` if it is a known call, an opaque one otherwise.
pub(super) fn call(heap: &mut Heap, callable: Value, args: Value) -> Step<Value> {
    let Value::Object(id) = callable else {
        return Err(Fault::Malformed("call of a value that is not callable"));
    };
    let Object::Global(global, _) = *heap.get(id) else {
        return opaque(heap, callable);
    };
    match global {
        Global::OrderedDict => dict(heap, args),
        Global::DefaultDict => Ok(heap.add(Object::Dict(Vec::new()), 0)?),
        Global::Size => argument(heap, args, 0),
        Global::RebuildTensor => tensor(heap, args, None, None),
        Global::RebuildTensorV2 => tensor(heap, args, None, Some(6)),
        Global::RebuildTensorV3 => {
            let dtype = argument(heap, args, 6)?;
            let ty = element_type(heap, dtype)?;
            tensor(heap, args, Some(ty), Some(7))
        }
        Global::RebuildParameter => {
            let data = argument(heap, args, 0)?;
            known(heap, data)?;
            Ok(data)
        }
        Global::RebuildFromType => {
            // (function, class, its arguments, state): a tensor with Python attributes or of a subclass.
            let (function, class) = (argument(heap, args, 0)?, raw_argument(heap, args, 1)?);
            let args = argument(heap, args, 2)?;
            known(heap, function)?;
            match function {
                Value::Object(id) if matches!(heap.get(id), Object::Global(Global::RebuildFromType, _)) => {
                    Err(Fault::Malformed("nested `_rebuild_from_type_v2`"))
                }
                // A wrapper such as DTensor has no storage of its own: its tensors are in the state.
                Value::Object(id) if matches!(heap.get(id), Object::Global(Global::RebuildWrapperSubclass, _)) => {
                    opaque(heap, class)
                }
                _ => {
                    let made = call(heap, function, args)?;
                    of_class(heap, made, class)
                }
            }
        }
        Global::RebuildWrapperSubclass | Global::PlainTensor | Global::Type(_) | Global::Unknown => {
            opaque(heap, callable)
        }
    }
}

/// The opaque result of calling `class`; nothing is called.
pub(super) fn opaque(heap: &mut Heap, class: Value) -> Step<Value> {
    let of: ObjectId = match class {
        Value::Object(id) => match heap.get(id) {
            Object::Global(..) => id,
            Object::Opaque(of) => *of,
            _ => return Err(Fault::Malformed("call of a value that is not callable")),
        },
        _ => return Ok(Value::Scalar),
    };
    Ok(heap.add(Object::Opaque(of), 0)?)
}

/// The storage that a persistent id names: `("storage", class, key, location, elements)`, and in the legacy format a
/// sixth field, `None` or `(view key, first element, elements)`.
pub(super) fn persistent(heap: &mut Heap, id: Value, at: u64) -> Step<Value> {
    let fields = heap.sequence(id).ok_or(Fault::Malformed("a persistent id that is not a tuple"))?;
    match fields.first().and_then(|&tag| heap.text(tag)) {
        Some("storage") => {}
        // The source of a pickled module's class: never needed.
        Some("module") => return Ok(Value::Scalar),
        _ => return Err(Fault::Malformed("a persistent id of unknown kind")),
    }
    let &[_, class, key, _, elements, ref view @ ..] = fields else {
        return Err(Fault::Malformed("a storage with fewer than five fields"));
    };
    let view = view.first().copied().unwrap_or(Value::None);
    let ty = element_type(heap, class)?;
    let key: Box<str> = match key {
        Value::Int(number) => number.to_string().into(),
        _ => heap.text(key).ok_or(Fault::Malformed("a storage without a key"))?.into(),
    };
    let mut storage = Storage { key, ty, elements: count(heap, elements)?, first: 0, at };
    if view != Value::None {
        storage.first = argument(heap, view, 1).and_then(|first| count(heap, first))?;
        storage.elements = argument(heap, view, 2).and_then(|elements| count(heap, elements))?;
    }
    let content = storage.key.len();
    Ok(heap.add(Object::Storage(storage), content)?)
}

/// The tensor as one of `class`. A tensor may be shared, so a class that is not known makes another one.
fn of_class(heap: &mut Heap, made: Value, class: Value) -> Step<Value> {
    let (Value::Object(id), Value::Object(class)) = (made, class) else { return Ok(made) };
    let Object::Tensor(tensor) = heap.get(id) else { return Ok(made) };
    if matches!(heap.get(class), Object::Global(Global::PlainTensor, _)) {
        return Ok(made);
    }
    let tensor = Tensor { twist: Some(Twist::Class(class)), ..tensor.clone() };
    let content = 2 * size_of_val(&*tensor.strides);
    Ok(heap.add(Object::Tensor(tensor), content)?)
}

/// What the metadata of a view says: a dict in which `conj` or `neg` is true.
fn twist(heap: &Heap, metadata: Value) -> Option<Twist> {
    let pairs = match metadata {
        Value::None => return None,
        Value::Object(id) => match heap.get(id) {
            Object::Dict(pairs) => pairs,
            _ => return Some(Twist::Metadata),
        },
        _ => return Some(Twist::Metadata),
    };
    let mut twists = pairs.iter().filter(|(_, value)| *value != Value::Bool(false)).map(|(key, value)| {
        match (heap.text(*key), value) {
            (Some("neg"), Value::Bool(true)) => Twist::Negative,
            (Some("conj"), Value::Bool(true)) => Twist::Conjugate,
            _ => Twist::Metadata,
        }
    });
    twists.next_back()
}

/// `(storage, offset, size, stride, ...)`, with the metadata of the view, if any, at `metadata`.
fn tensor(heap: &mut Heap, args: Value, ty: Option<usize>, metadata: Option<usize>) -> Step<Value> {
    let storage = argument(heap, args, 0)?;
    known(heap, storage)?;
    let storage = match storage {
        Value::Object(id) if matches!(heap.get(id), Object::Storage(_)) => id,
        _ => return Err(Fault::Malformed("a tensor whose storage is a value of another kind")),
    };
    let Object::Storage(Storage { ty: storage_type, .. }) = *heap.get(storage) else {
        return Err(Fault::Malformed("a tensor whose storage is a value of another kind"));
    };
    let offset = argument(heap, args, 1).and_then(|offset| count(heap, offset))?;
    let shape = argument(heap, args, 2).and_then(|shape| counts(heap, shape))?;
    let strides = argument(heap, args, 3).and_then(|strides| counts(heap, strides))?;
    if shape.len() != strides.len() {
        return Err(Fault::Malformed("a tensor with different numbers of dimensions and strides"));
    }
    let shape = shape.iter().map(|&d| usize::try_from(d)).collect::<Result<Box<[usize]>, _>>();
    let shape = shape.map_err(|_| Fault::Malformed("a dimension too large for this machine"))?;
    let content = 2 * size_of_val(&*strides);
    let ty = ty.unwrap_or(storage_type);
    let metadata = metadata.and_then(|at| heap.sequence(args)?.get(at).copied()).unwrap_or(Value::None);
    let twist = twist(heap, metadata);
    Ok(heap.add(Object::Tensor(Tensor { storage, ty, offset, shape, strides, twist }), content)?)
}

/// `OrderedDict()`, or `OrderedDict([[key, value], ...])` as Python 2 wrote it.
fn dict(heap: &mut Heap, args: Value) -> Step<Value> {
    let mut items = Vec::new();
    if let Some(&list) = heap.sequence(args).and_then(|args| args.first()) {
        known(heap, list)?;
        let pairs = heap.sequence(list).ok_or(Fault::Malformed("an OrderedDict of a value that is not a list"))?.len();
        // Charged before copying: one long list can be made into many dicts.
        heap.charge(2 * pairs * size_of::<(Value, Value)>())?;
        for &pair in heap.sequence(list).unwrap_or_default() {
            match heap.sequence(pair) {
                Some(&[key, value]) => items.push((key, value)),
                _ => return Err(Fault::Malformed("an OrderedDict of values that are not pairs")),
            }
        }
    }
    Ok(heap.add(Object::Dict(items), 0)?)
}

/// Refuses a value that is, or was made by, an unknown global.
fn known(heap: &Heap, value: Value) -> Step<()> {
    match heap.unknown_global(value) {
        Some(global) => Err(Fault::Forbidden(global.to_owned())),
        None => Ok(()),
    }
}

fn argument(heap: &Heap, args: Value, number: usize) -> Step<Value> {
    known(heap, args)?;
    raw_argument(heap, args, number)
}

/// An argument that may be, or be made by, an unknown global.
fn raw_argument(heap: &Heap, args: Value, number: usize) -> Step<Value> {
    let args = heap.sequence(args).ok_or(Fault::Malformed("arguments that are not a tuple"))?;
    args.get(number).copied().ok_or(Fault::Malformed("a call with too few arguments"))
}

/// The index in [`TYPES`] of the type that a storage class or dtype names.
fn element_type(heap: &Heap, class: Value) -> Step<usize> {
    known(heap, class)?;
    match class {
        Value::Object(id) => match *heap.get(id) {
            Object::Global(Global::Type(ty), _) if ty < TYPES.len() => Ok(ty),
            _ => Err(Fault::Malformed("a value that is not an element type")),
        },
        _ => Err(Fault::Malformed("a value that is not an element type")),
    }
}

fn count(heap: &Heap, value: Value) -> Step<u64> {
    known(heap, value)?;
    match value {
        Value::Int(n) => u64::try_from(n).map_err(|_| Fault::Malformed("a negative size, offset or stride")),
        _ => Err(Fault::Malformed("a size, offset or stride that is not a 64-bit integer")),
    }
}

fn counts(heap: &Heap, value: Value) -> Step<Box<[u64]>> {
    known(heap, value)?;
    let items = heap.sequence(value).ok_or(Fault::Malformed("a shape that is not a tuple"))?;
    if items.len() > MAX_DIMENSIONS {
        return Err(Fault::Limit("a tensor has too many dimensions", MAX_DIMENSIONS as u64));
    }
    items.iter().map(|&item| count(heap, item)).collect()
}
