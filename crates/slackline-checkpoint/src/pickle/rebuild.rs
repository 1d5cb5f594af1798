//! The calls and references that a pickled tensor is made of.

use super::heap::{Global, Object, Storage, TYPES, Tensor, Value};
use super::{Fault, Machine, Step};
use crate::dtype::MAX_DIMENSIONS;

impl Machine {
    /// The value of `callable(*args)` if we know it, an opaque one otherwise.
    pub(super) fn call(&mut self, callable: Value, args: Value) -> Step<Value> {
        let Value::Object(id) = callable else {
            return Err(Fault::Malformed("a call of what cannot be called"));
        };
        let Object::Global(global, _) = *self.heap.get(id) else {
            return self.opaque(callable);
        };
        match global {
            Global::OrderedDict => self.dict(args),
            Global::DefaultDict => Ok(self.heap.add(Object::Dict(Vec::new()), 0)?),
            Global::Size => self.argument(args, 0),
            Global::RebuildTensor => self.tensor(args, None),
            Global::RebuildTensorV2 => self.tensor(args, None),
            Global::RebuildTensorV3 => {
                let dtype = self.argument(args, 6)?;
                let ty = self.element_type(dtype)?;
                self.tensor(args, Some(ty))
            }
            Global::RebuildParameter => {
                let data = self.argument(args, 0)?;
                self.known(data)?;
                Ok(data)
            }
            Global::RebuildFromType => {
                // (function, class, its arguments, state): a tensor with Python attributes, or of a subclass.
                let (function, args) = (self.argument(args, 0)?, self.argument(args, 2)?);
                self.known(function)?;
                match function {
                    Value::Object(id) if matches!(self.heap.get(id), Object::Global(Global::RebuildFromType, _)) => {
                        Err(Fault::Malformed("a tensor's type is rebuilt from a type"))
                    }
                    _ => self.call(function, args),
                }
            }
            Global::Type(_) | Global::Unknown => self.opaque(callable),
        }
    }

    /// The storage that a persistent id names: `("storage", class, key, location, elements)`, and in the legacy format a
    /// sixth field, `None` or `(view key, first element, elements)`.
    pub(super) fn persistent(&mut self, id: Value, at: u64) -> Step<Value> {
        let fields = self.heap.sequence(id).ok_or(Fault::Malformed("a persistent id that is no tuple"))?;
        match fields.first().and_then(|&tag| self.heap.text(tag)) {
            Some("storage") => {}
            // The source of a pickled module's class: never needed.
            Some("module") => return Ok(Value::Scalar),
            _ => return Err(Fault::Malformed("a persistent id of unknown kind")),
        }
        let &[_, class, key, _, elements, ref view @ ..] = fields else {
            return Err(Fault::Malformed("a storage with fewer than five fields"));
        };
        let view = view.first().copied().unwrap_or(Value::None);
        let ty = self.element_type(class)?;
        let key: Box<str> = match key {
            Value::Int(number) => number.to_string().into(),
            _ => self.heap.text(key).ok_or(Fault::Malformed("a storage without a key"))?.into(),
        };
        let mut storage = Storage { key, ty, elements: self.count(elements)?, first: 0, at };
        if view != Value::None {
            storage.first = self.argument(view, 1).and_then(|first| self.count(first))?;
            storage.elements = self.argument(view, 2).and_then(|elements| self.count(elements))?;
        }
        let content = storage.key.len();
        Ok(self.heap.add(Object::Storage(storage), content)?)
    }

    /// `(storage, offset, size, stride, ...)`.
    fn tensor(&mut self, args: Value, ty: Option<usize>) -> Step<Value> {
        let storage = self.argument(args, 0)?;
        self.known(storage)?;
        let storage = match storage {
            Value::Object(id) if matches!(self.heap.get(id), Object::Storage(_)) => id,
            _ => return Err(Fault::Malformed("a tensor of what is no storage")),
        };
        let Object::Storage(Storage { ty: storage_type, .. }) = *self.heap.get(storage) else {
            return Err(Fault::Malformed("a tensor of what is no storage"));
        };
        let offset = self.argument(args, 1).and_then(|offset| self.count(offset))?;
        let shape = self.argument(args, 2).and_then(|shape| self.counts(shape))?;
        let strides = self.argument(args, 3).and_then(|strides| self.counts(strides))?;
        if shape.len() != strides.len() {
            return Err(Fault::Malformed("a tensor with more dimensions than strides, or fewer"));
        }
        let shape = shape.iter().map(|&d| usize::try_from(d)).collect::<Result<Box<[usize]>, _>>();
        let shape = shape.map_err(|_| Fault::Malformed("a dimension past what this machine can address"))?;
        let content = 2 * size_of_val(&*strides);
        let ty = ty.unwrap_or(storage_type);
        Ok(self.heap.add(Object::Tensor(Tensor { storage, ty, offset, shape, strides }), content)?)
    }

    /// `OrderedDict()`, or `OrderedDict([[key, value], ...])` as Python 2 wrote it.
    fn dict(&mut self, args: Value) -> Step<Value> {
        let mut items = Vec::new();
        if let Some(&list) = self.heap.sequence(args).and_then(|args| args.first()) {
            self.known(list)?;
            let pairs = self.heap.sequence(list).ok_or(Fault::Malformed("a dict of what is no list"))?.len();
            // Before copying: one long list may be made into many dicts.
            self.heap.charge(2 * pairs * size_of::<(Value, Value)>())?;
            for &pair in self.heap.sequence(list).unwrap_or_default() {
                match self.heap.sequence(pair) {
                    Some(&[key, value]) => items.push((key, value)),
                    _ => return Err(Fault::Malformed("a dict of what are no pairs")),
                }
            }
        }
        Ok(self.heap.add(Object::Dict(items), 0)?)
    }

    /// Refuses a value that came from a global that we do not know.
    fn known(&self, value: Value) -> Step<()> {
        match self.heap.unknown_global(value) {
            Some(global) => Err(Fault::Forbidden(global.to_owned())),
            None => Ok(()),
        }
    }

    fn argument(&self, args: Value, number: usize) -> Step<Value> {
        self.known(args)?;
        let args = self.heap.sequence(args).ok_or(Fault::Malformed("arguments that are no tuple"))?;
        args.get(number).copied().ok_or(Fault::Malformed("a call with too few arguments"))
    }

    /// Index into [`TYPES`] of the type that a storage class or dtype names.
    fn element_type(&self, class: Value) -> Step<usize> {
        self.known(class)?;
        match class {
            Value::Object(id) => match *self.heap.get(id) {
                Object::Global(Global::Type(ty), _) if ty < TYPES.len() => Ok(ty),
                _ => Err(Fault::Malformed("an element type that is none")),
            },
            _ => Err(Fault::Malformed("an element type that is none")),
        }
    }

    fn count(&self, value: Value) -> Step<u64> {
        self.known(value)?;
        match value {
            Value::Int(n) => u64::try_from(n).map_err(|_| Fault::Malformed("a negative size, offset or stride")),
            _ => Err(Fault::Malformed("a size, offset or stride that is no integer of 64 bits")),
        }
    }

    fn counts(&self, value: Value) -> Step<Box<[u64]>> {
        self.known(value)?;
        let items = self.heap.sequence(value).ok_or(Fault::Malformed("a shape that is no tuple"))?;
        if items.len() > MAX_DIMENSIONS {
            return Err(Fault::Limit("a tensor has too many dimensions", MAX_DIMENSIONS as u64));
        }
        items.iter().map(|&item| self.count(item)).collect()
    }
}
