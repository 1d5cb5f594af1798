//! The names of tensors: which part of a file is the model, and dotted names from the value of a pickle.

use std::collections::BTreeMap;

use crate::limits::{MAX_NAME_BYTES, MAX_TENSORS};
use crate::pickle::Pickle;
use crate::pickle::heap::{Object, ObjectId, Value};
use crate::source::Source;
use crate::{CheckpointError, Corrupt};

/// Entries at the top level of a file that programs use for the state dict of a model.
pub(crate) const MODEL_KEYS: [&str; 4] = ["state_dict", "model_state_dict", "model", "module"];

/// The prefix that `DataParallel` and `DistributedDataParallel` add to every name.
const WRAPPER: &str = "module.";

const MAX_DEPTH: usize = 64;
const MAX_VISITS: u64 = 8 << 20;

/// The tensors of a pickle by name, and the names of what else it has.
#[derive(Debug)]
pub(crate) struct Named {
    /// As written, with a leading `module.`; the same name may come twice.
    pub(crate) tensors: Vec<(String, ObjectId)>,
    pub(crate) skipped: Vec<String>,
}

/// Finds the model in the value of a pickle, by the rules that [`Checkpoint`](crate::Checkpoint) documents.
pub(crate) fn find_tensors(pickle: &Pickle, source: &Source) -> Result<Named, CheckpointError> {
    let holders = holders(pickle);
    let mut walk = Walk { pickle, source, holders, visits: 0, name_bytes: 0, found: Vec::new(), skipped: Vec::new() };
    let mut model = None;
    if let Some(Object::Dict(top)) = object(pickle, pickle.root) {
        for key in MODEL_KEYS {
            let is_model = |value| matches!(object(pickle, value), Some(Object::Dict(_))) && walk.holds(value);
            let Some(&(_, value)) = top.iter().find(|&&(k, value)| pickle.heap.text(k) == Some(key) && is_model(value))
            else {
                continue;
            };
            if let Some((first, _)) = model.replace((key, value)) {
                return Err(CheckpointError::AmbiguousModel { file: source.path().to_owned(), first, second: key });
            }
        }
        if let Some((model, value)) = model {
            walk.visit(value, &mut String::new(), 0)?;
            for &(key, value) in top.iter().filter(|(key, _)| pickle.heap.text(*key) != Some(model)) {
                walk.skip(key_name(pickle, key), value)?;
            }
        }
    }
    if model.is_none() {
        walk.visit(pickle.root, &mut String::new(), 0)?;
    }
    let (tensors, skipped) = (walk.found, walk.skipped);
    if tensors.is_empty() {
        return Err(CheckpointError::NoTensors { file: source.path().to_owned(), holds: skipped });
    }
    Ok(Named { tensors, skipped })
}

/// Removes a leading `module.` from every name, and refuses two tensors of one name.
pub(crate) fn without_wrapper<T>(
    tensors: impl IntoIterator<Item = (String, T)>,
    source: &Source,
) -> Result<BTreeMap<String, T>, CheckpointError> {
    let mut named = BTreeMap::new();
    for (name, tensor) in tensors {
        let name = match name.strip_prefix(WRAPPER) {
            Some(short) => short.to_owned(),
            None => name,
        };
        if named.contains_key(&name) {
            return Err(CheckpointError::DuplicateTensor { file: source.path().to_owned(), tensor: name });
        }
        named.insert(name, tensor);
    }
    Ok(named)
}

struct Walk<'p> {
    pickle: &'p Pickle,
    source: &'p Source,
    /// For each object, whether it is a tensor or contains one.
    holders: Vec<bool>,
    /// Values visited: with shared containers, few objects can make exponentially many.
    visits: u64,
    name_bytes: usize,
    found: Vec<(String, ObjectId)>,
    skipped: Vec<String>,
}

impl<'p> Walk<'p> {
    fn visit(&mut self, value: Value, name: &mut String, depth: usize) -> Result<(), CheckpointError> {
        self.visits += 1;
        if self.visits > MAX_VISITS {
            return Err(self.limit("the containers of the pickle have too many values", MAX_VISITS));
        }
        let pickle = self.pickle;
        // A container without tensors is reported once, as a whole.
        if !self.holds(value) {
            return self.skip(name.clone(), value);
        }
        match object(pickle, value) {
            Some(Object::Tensor(tensor)) => {
                let Value::Object(id) = value else { return Ok(()) };
                if self.found.len() >= MAX_TENSORS {
                    return Err(self.limit("too many tensors", MAX_TENSORS as u64));
                }
                self.charge(name.len() + 4 * size_of_val(&*tensor.shape))?;
                self.found.push((if name.is_empty() { "tensor".to_owned() } else { name.clone() }, id));
            }
            Some(Object::Dict(pairs)) => {
                self.deeper(depth)?;
                for &(key, value) in pairs {
                    let key = key_name(pickle, key);
                    self.child(value, name, &key, depth)?;
                }
            }
            Some(Object::Sequence(items)) => {
                self.deeper(depth)?;
                for (number, &value) in items.iter().enumerate() {
                    self.child(value, name, &number.to_string(), depth)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn holds(&self, value: Value) -> bool {
        holds(&self.holders, value)
    }

    fn child(&mut self, value: Value, name: &mut String, key: &str, depth: usize) -> Result<(), CheckpointError> {
        let len = name.len();
        if len > 0 {
            name.push('.');
        }
        name.push_str(key);
        self.visit(value, name, depth + 1)?;
        name.truncate(len);
        Ok(())
    }

    fn skip(&mut self, name: String, value: Value) -> Result<(), CheckpointError> {
        let name = if name.is_empty() { "the whole file".to_owned() } else { name };
        let name = match self.pickle.heap.unknown_global(value) {
            Some(global) => format!("{name} ({global})"),
            None => name,
        };
        self.charge(name.len())?;
        self.skipped.push(name);
        Ok(())
    }

    fn deeper(&self, depth: usize) -> Result<(), CheckpointError> {
        if depth < MAX_DEPTH {
            return Ok(());
        }
        Err(self.limit("the containers of the pickle are nested too deeply or contain themselves", MAX_DEPTH as u64))
    }

    fn charge(&mut self, bytes: usize) -> Result<(), CheckpointError> {
        self.name_bytes += bytes + size_of::<String>();
        if self.name_bytes > MAX_NAME_BYTES {
            return Err(self.limit("the names of all values are too long", MAX_NAME_BYTES as u64));
        }
        Ok(())
    }

    fn limit(&self, what: &'static str, limit: u64) -> CheckpointError {
        self.source.corrupt(Corrupt::Limit { at: self.pickle.at, what, limit })
    }
}

/// For each object, whether it is a tensor or contains one at most [`MAX_DEPTH`] levels down.
fn holders(pickle: &Pickle) -> Vec<bool> {
    let objects = pickle.heap.objects();
    let mut holders: Vec<bool> = objects.iter().map(|object| matches!(object, Object::Tensor(_))).collect();
    // A container can contain objects made before or after it, and itself. Every pass finds at least one level. Nested dicts
    // are made before their content, so going backwards finds all of their levels in one pass.
    for _ in 0..MAX_DEPTH {
        let mut changed = false;
        for (id, object) in objects.iter().enumerate().rev() {
            let found = !holders[id]
                && match object {
                    Object::Dict(pairs) => pairs.iter().any(|&(_, value)| holds(&holders, value)),
                    Object::Sequence(items) => items.iter().any(|&value| holds(&holders, value)),
                    _ => false,
                };
            holders[id] |= found;
            changed |= found;
        }
        if !changed {
            break;
        }
    }
    holders
}

fn holds(holders: &[bool], value: Value) -> bool {
    matches!(value, Value::Object(id) if holders[id as usize])
}

fn object(pickle: &Pickle, value: Value) -> Option<&Object> {
    match value {
        Value::Object(id) => Some(pickle.heap.get(id)),
        _ => None,
    }
}

fn key_name(pickle: &Pickle, key: Value) -> String {
    match key {
        Value::Int(number) => number.to_string(),
        _ => pickle.heap.text(key).unwrap_or("<key>").to_owned(),
    }
}
