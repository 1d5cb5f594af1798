//! A pickle machine that never runs code. It keeps the containers, strings and integers that a state dict is made of, makes
//! tensors of calls to a few known `torch` functions, and turns everything else into opaque values.
//!
//! Everything is bounded: see [`MAX_OPCODES`], [`MAX_STACK`], [`MAX_MEMO`], [`MAX_TEXT`] and [`MAX_HEAP_BYTES`](heap::MAX_HEAP_BYTES).

mod fault;
pub(crate) mod heap;
mod op;
mod rebuild;

use std::collections::HashMap;

use fault::{Fault, Step};
use heap::{Global, Heap, Object, Value};

use crate::source::Cursor;
use crate::{CheckpointError, Corrupt};

/// Instructions of one pickle.
const MAX_OPCODES: u64 = 64 << 20;
/// Values on the stack; the same limit holds for marks.
const MAX_STACK: usize = 1 << 20;
/// Values in the memo.
const MAX_MEMO: usize = 2 << 20;
/// Bytes of a string that is kept; longer strings become opaque.
const MAX_TEXT: u64 = 64 << 10;
/// Bytes of the name of a global, or of a number written in digits.
const MAX_LINE: usize = 4096;

/// The value of a pickle.
pub(crate) struct Pickle {
    pub(crate) heap: Heap,
    pub(crate) root: Value,
    /// Position of its first byte.
    pub(crate) at: u64,
}

/// Reads one pickle and leaves `input` after its last instruction.
pub(crate) fn load(input: &mut Cursor<'_>) -> Result<Pickle, CheckpointError> {
    let mut machine = Machine {
        heap: Heap::default(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        last_global: None,
    };
    let start = input.at();
    for _ in 0..MAX_OPCODES {
        let at = input.at();
        let opcode = input.byte()?;
        if opcode == op::STOP {
            let root = machine.pop().map_err(|fault| fault.at(input, at))?;
            return Ok(Pickle { heap: machine.heap, root, at: start });
        }
        machine.step(opcode, at, input).map_err(|fault| fault.at(input, at))?;
    }
    let (at, what) = (input.at(), "the pickle has too many instructions");
    Err(input.corrupt(Corrupt::Limit { at, what, limit: MAX_OPCODES }))
}

struct Machine {
    heap: Heap,
    stack: Vec<Value>,
    /// Heights of the stack at which groups of values begin.
    marks: Vec<usize>,
    memo: HashMap<u32, Value>,
    /// The last global and its value: a pickle without a memo names the same few again and again.
    last_global: Option<(Box<str>, Value)>,
}

impl Machine {
    fn step(&mut self, opcode: u8, at: u64, input: &mut Cursor<'_>) -> Step<()> {
        match opcode {
            op::PROTO => {
                if input.byte()? > 5 {
                    return Err(Fault::Malformed("pickle protocol later than 5"));
                }
            }
            // A frame only tells how much to read ahead.
            op::FRAME => input.skip(8)?,
            op::MARK => {
                if self.marks.len() >= MAX_STACK {
                    return Err(Fault::Limit("the pickle has too many marks", MAX_STACK as u64));
                }
                self.marks.push(self.stack.len());
            }
            op::POP if self.stack.len() > self.floor() => drop(self.pop()?),
            op::POP | op::POP_MARK => drop(self.group()?),
            op::DUP => self.push(self.top()?)?,

            op::NONE => self.push(Value::None)?,
            op::NEWTRUE => self.push(Value::Bool(true))?,
            op::NEWFALSE => self.push(Value::Bool(false))?,
            op::BININT => self.push(Value::Int(i32::from_le_bytes(input.array()?).into()))?,
            op::BININT1 => self.push(Value::Int(input.byte()?.into()))?,
            op::BININT2 => self.push(Value::Int(u16::from_le_bytes(input.array()?).into()))?,
            op::LONG1 => {
                let n = input.byte()?;
                self.long(n.into(), input)?;
            }
            op::LONG4 => {
                let n = self.length4(input)?;
                self.long(n, input)?;
            }
            op::INT | op::LONG => {
                let line = input.line(MAX_LINE)?;
                let digits = std::str::from_utf8(&line)
                    .map_err(|_| Fault::Malformed("an integer with characters that are not digits"))?;
                self.push(match digits {
                    "00" => Value::Bool(false),
                    "01" => Value::Bool(true),
                    _ => digits.trim_end_matches('L').parse().map_or(Value::Scalar, Value::Int),
                })?;
            }
            op::FLOAT => {
                input.line(MAX_LINE)?;
                self.push(Value::Scalar)?;
            }
            op::BINFLOAT => {
                input.skip(8)?;
                self.push(Value::Scalar)?;
            }

            op::BINUNICODE | op::BINSTRING => {
                let n = self.length4(input)?;
                self.text(n, input)?;
            }
            op::SHORT_BINUNICODE | op::SHORT_BINSTRING => {
                let n = input.byte()?;
                self.text(n.into(), input)?;
            }
            op::BINUNICODE8 => {
                let n = u64::from_le_bytes(input.array()?);
                self.text(n, input)?;
            }
            op::UNICODE | op::STRING => {
                let line = input.line(MAX_TEXT as usize)?;
                self.quoted(opcode, line)?;
            }
            op::SHORT_BINBYTES => {
                let n = input.byte()?;
                input.skip(n.into())?;
                self.push(Value::Scalar)?;
            }
            op::BINBYTES => {
                let n = u32::from_le_bytes(input.array()?);
                input.skip(n.into())?;
                self.push(Value::Scalar)?;
            }
            op::BINBYTES8 | op::BYTEARRAY8 => {
                let n = u64::from_le_bytes(input.array()?);
                input.skip(n)?;
                self.push(Value::Scalar)?;
            }

            op::EMPTY_LIST | op::EMPTY_TUPLE => self.add(Object::Sequence(Vec::new()), 0)?,
            op::EMPTY_DICT => self.add(Object::Dict(Vec::new()), 0)?,
            op::LIST | op::TUPLE => {
                let items = self.group()?;
                self.sequence(items)?;
            }
            op::TUPLE1..=op::TUPLE3 => {
                let n = usize::from(opcode - op::TUPLE1) + 1;
                let mut items = vec![Value::None; n];
                for item in items.iter_mut().rev() {
                    *item = self.pop()?;
                }
                self.sequence(items)?;
            }
            op::DICT => {
                let items = self.group()?;
                self.add(Object::Dict(Vec::new()), 0)?;
                self.set_items(&items)?;
            }
            op::APPEND => {
                let item = self.pop()?;
                self.append(&[item])?;
            }
            op::APPENDS => {
                let items = self.group()?;
                self.append(&items)?;
            }
            op::SETITEM => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set_items(&[key, value])?;
            }
            op::SETITEMS => {
                let items = self.group()?;
                self.set_items(&items)?;
            }
            // A set cannot contain tensors.
            op::EMPTY_SET => self.push(Value::Scalar)?,
            op::ADDITEMS => drop(self.group()?),
            op::FROZENSET => {
                self.group()?;
                self.push(Value::Scalar)?;
            }

            op::PUT => {
                let n = number(&input.line(MAX_LINE)?)?;
                self.remember(n)?;
            }
            op::BINPUT => {
                let n = input.byte()?;
                self.remember(n.into())?;
            }
            op::LONG_BINPUT => self.remember(u32::from_le_bytes(input.array()?))?,
            op::MEMOIZE => self.remember(self.memo.len() as u32)?,
            op::GET => {
                let n = number(&input.line(MAX_LINE)?)?;
                self.recall(n)?;
            }
            op::BINGET => {
                let n = input.byte()?;
                self.recall(n.into())?;
            }
            op::LONG_BINGET => self.recall(u32::from_le_bytes(input.array()?))?,

            op::GLOBAL => {
                let (module, name) = (input.line(MAX_LINE)?, input.line(MAX_LINE)?);
                let utf8 = |bytes| String::from_utf8(bytes).map_err(|_| Fault::Malformed("a name that is not UTF-8"));
                let global = self.global(&utf8(module)?, &utf8(name)?)?;
                self.push(global)?;
            }
            op::STACK_GLOBAL => {
                let (name, module) = (self.pop()?, self.pop()?);
                let text =
                    |v| self.heap.text(v).map(str::to_owned).ok_or(Fault::Malformed("a name that is not a string"));
                let (module, name) = (text(module)?, text(name)?);
                let global = self.global(&module, &name)?;
                self.push(global)?;
            }
            op::REDUCE | op::NEWOBJ => {
                let (args, callable) = (self.pop()?, self.pop()?);
                let made = rebuild::call(&mut self.heap, callable, args)?;
                self.push(made)?;
            }
            op::NEWOBJ_EX => {
                let (_, args, callable) = (self.pop()?, self.pop()?, self.pop()?);
                let made = rebuild::call(&mut self.heap, callable, args)?;
                self.push(made)?;
            }
            op::INST => {
                let (module, name) = (input.line(MAX_LINE)?, input.line(MAX_LINE)?);
                self.group()?;
                let global = self.global(&String::from_utf8_lossy(&module), &String::from_utf8_lossy(&name))?;
                let made = rebuild::opaque(&mut self.heap, global)?;
                self.push(made)?;
            }
            op::OBJ => {
                let items = self.group()?;
                let class = *items.first().ok_or(Fault::Malformed("an object without a class"))?;
                let made = rebuild::opaque(&mut self.heap, class)?;
                self.push(made)?;
            }
            // The state of an object is not needed: Python attributes of a tensor, `_metadata` of an OrderedDict.
            op::BUILD => {
                self.pop()?;
                self.top()?;
            }
            op::BINPERSID => {
                let id = self.pop()?;
                let made = rebuild::persistent(&mut self.heap, id, at)?;
                self.push(made)?;
            }
            _ => return Err(Fault::UnknownOpcode(opcode)),
        }
        Ok(())
    }

    /// The height down to which the current group may pop.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn push(&mut self, value: Value) -> Step<()> {
        if self.stack.len() >= MAX_STACK {
            return Err(Fault::Limit("the stack of the pickle is too large", MAX_STACK as u64));
        }
        self.stack.push(value);
        Ok(())
    }

    fn pop(&mut self) -> Step<Value> {
        if self.stack.len() <= self.floor() {
            return Err(Fault::Malformed("too few values on the stack"));
        }
        self.stack.pop().ok_or(Fault::Malformed("too few values on the stack"))
    }

    fn top(&self) -> Step<Value> {
        match self.stack.last() {
            Some(&value) if self.stack.len() > self.floor() => Ok(value),
            _ => Err(Fault::Malformed("no value on the stack")),
        }
    }

    /// Pops all values since the last mark, and the mark.
    fn group(&mut self) -> Step<Vec<Value>> {
        let floor = self.marks.pop().ok_or(Fault::Malformed("no mark on the stack"))?;
        Ok(self.stack.split_off(floor))
    }

    fn add(&mut self, object: Object, content: usize) -> Step<()> {
        let value = self.heap.add(object, content)?;
        self.push(value)
    }

    fn sequence(&mut self, items: Vec<Value>) -> Step<()> {
        let content = items.capacity() * size_of::<Value>();
        self.add(Object::Sequence(items), content)
    }

    fn remember(&mut self, number: u32) -> Step<()> {
        let value = self.top()?;
        if self.memo.insert(number, value).is_none() && self.memo.len() > MAX_MEMO {
            return Err(Fault::Limit("the memo of the pickle is too large", MAX_MEMO as u64));
        }
        Ok(())
    }

    fn recall(&mut self, number: u32) -> Step<()> {
        let value = *self.memo.get(&number).ok_or(Fault::Malformed("a memo entry that was not set"))?;
        self.push(value)
    }

    /// A length of four bytes. For some instructions it is signed; a negative one is too long for any file.
    fn length4(&mut self, input: &mut Cursor<'_>) -> Step<u64> {
        Ok(u32::from_le_bytes(input.array()?).into())
    }

    /// A little-endian two's complement integer of `n` bytes.
    fn long(&mut self, n: u64, input: &mut Cursor<'_>) -> Step<()> {
        if n > 8 {
            input.skip(n)?;
            return self.push(Value::Scalar);
        }
        let bytes = input.take(n as usize)?;
        let fill = if bytes.last().is_some_and(|b| b & 0x80 != 0) { 0xff } else { 0 };
        let mut wide = [fill; 8];
        wide[..bytes.len()].copy_from_slice(&bytes);
        self.push(Value::Int(i64::from_le_bytes(wide)))
    }

    fn text(&mut self, n: u64, input: &mut Cursor<'_>) -> Step<()> {
        if n > MAX_TEXT {
            input.skip(n)?;
            return self.push(Value::Scalar);
        }
        self.keep_text(input.take(n as usize)?)
    }

    /// A string that is not UTF-8 (Python 2 bytes, lone surrogates) becomes opaque: it cannot be a name.
    fn keep_text(&mut self, bytes: Vec<u8>) -> Step<()> {
        match String::from_utf8(bytes) {
            Ok(text) => {
                let content = text.len();
                self.add(Object::Text(text.into_boxed_str()), content)
            }
            Err(_) => self.push(Value::Scalar),
        }
    }

    /// A string of protocol 0. Escapes are not resolved: a string with one becomes opaque.
    fn quoted(&mut self, opcode: u8, mut line: Vec<u8>) -> Step<()> {
        if opcode == op::STRING {
            let quote = line.first().copied();
            if line.len() < 2 || !matches!(quote, Some(b'\'' | b'"')) || line.last().copied() != quote {
                return Err(Fault::Malformed("a string without quotes"));
            }
            line.pop();
            line.remove(0);
        }
        if line.contains(&b'\\') {
            return self.push(Value::Scalar);
        }
        self.keep_text(line)
    }

    fn global(&mut self, module: &str, name: &str) -> Step<Value> {
        let full = format!("{module}.{name}").into_boxed_str();
        if let Some((last, value)) = &self.last_global
            && *last == full
        {
            return Ok(*value);
        }
        let content = full.len();
        let value = self.heap.add(Object::Global(Global::named(module, name), full.clone()), content)?;
        self.last_global = Some((full, value));
        Ok(value)
    }

    fn append(&mut self, items: &[Value]) -> Step<()> {
        // An opaque object may be a subclass of list.
        let Value::Object(id) = self.top()? else { return Ok(()) };
        match self.heap.get_mut(id) {
            Object::Sequence(list) => list.extend_from_slice(items),
            Object::Opaque(_) => return Ok(()),
            _ => return Err(Fault::Malformed("append to a value that is not a list")),
        }
        // Twice: vectors grow by doubling.
        Ok(self.heap.charge(2 * size_of_val(items))?)
    }

    fn set_items(&mut self, items: &[Value]) -> Step<()> {
        let (pairs, odd) = items.as_chunks::<2>();
        if !odd.is_empty() {
            return Err(Fault::Malformed("a key without a value"));
        }
        let Value::Object(id) = self.top()? else { return Ok(()) };
        match self.heap.get_mut(id) {
            Object::Dict(dict) => dict.extend(pairs.iter().map(|&[key, value]| (key, value))),
            Object::Opaque(_) => return Ok(()),
            _ => return Err(Fault::Malformed("set items of a value that is not a dict")),
        }
        Ok(self.heap.charge(2 * size_of_val(items))?)
    }
}

/// The number of a memo entry, in digits.
fn number(line: &[u8]) -> Step<u32> {
    std::str::from_utf8(line)
        .ok()
        .and_then(|s| s.parse().ok())
        .ok_or(Fault::Malformed("a memo number that is not digits"))
}
