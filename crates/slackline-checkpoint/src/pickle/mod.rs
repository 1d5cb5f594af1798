//! A pickle machine that executes nothing: it keeps the containers, strings and integers that a state dict is made of,
//! makes tensors out of calls to the handful of known `torch` functions, and turns everything else into opaque values.
//!
//! All of it is bounded: see [`MAX_OPCODES`], [`MAX_STACK`], [`MAX_MEMO`], [`MAX_TEXT`] and [`MAX_HEAP_BYTES`].

pub(crate) mod heap;
mod rebuild;

use std::collections::HashMap;

use heap::{Full, Global, Heap, MAX_HEAP_BYTES, Object, ObjectId, Value};

use crate::source::Cursor;
use crate::{CheckpointError, Corrupt};

/// Instructions of one pickle.
const MAX_OPCODES: u64 = 64 << 20;
/// Values on the stack, and marks.
const MAX_STACK: usize = 1 << 20;
/// Values remembered by number.
const MAX_MEMO: usize = 2 << 20;
/// Bytes of a string that is kept; longer ones become opaque.
const MAX_TEXT: u64 = 64 << 10;
/// Bytes of the name of a global, or of a number written in digits.
const MAX_LINE: usize = 4096;

/// What a pickle left.
pub(crate) struct Pickle {
    pub(crate) heap: Heap,
    pub(crate) root: Value,
    /// Position of its first byte.
    pub(crate) at: u64,
}

/// Reads one pickle and leaves `input` behind its last instruction.
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
    /// Heights of the stack at which a group of values begins.
    marks: Vec<usize>,
    memo: HashMap<u32, Value>,
    /// The last global and its value: a pickle without a memo names the same few over and over.
    last_global: Option<(Box<str>, Value)>,
}

/// Why an instruction failed; [`Fault::at`] adds where.
enum Fault {
    Read(CheckpointError),
    UnknownOpcode(u8),
    Malformed(&'static str),
    Limit(&'static str, u64),
    Forbidden(String),
}

impl From<CheckpointError> for Fault {
    fn from(error: CheckpointError) -> Self {
        Fault::Read(error)
    }
}

impl From<Full> for Fault {
    fn from(_: Full) -> Self {
        Fault::Limit("the pickle's values take too many bytes", MAX_HEAP_BYTES as u64)
    }
}

impl Fault {
    fn at(self, input: &Cursor<'_>, at: u64) -> CheckpointError {
        input.corrupt(match self {
            Fault::Read(error) => return error,
            Fault::UnknownOpcode(opcode) => Corrupt::UnknownOpcode { at, opcode },
            Fault::Malformed(what) => Corrupt::Pickle { at, what },
            Fault::Limit(what, limit) => Corrupt::Limit { at, what, limit },
            Fault::Forbidden(global) => Corrupt::ForbiddenGlobal { at, global },
        })
    }
}

type Step<T> = Result<T, Fault>;

/// The instructions, by the names that Python's `pickletools` gives them.
mod op {
    pub(super) const MARK: u8 = b'(';
    pub(super) const STOP: u8 = b'.';
    pub(super) const POP: u8 = b'0';
    pub(super) const POP_MARK: u8 = b'1';
    pub(super) const DUP: u8 = b'2';
    pub(super) const FLOAT: u8 = b'F';
    pub(super) const INT: u8 = b'I';
    pub(super) const BININT: u8 = b'J';
    pub(super) const BININT1: u8 = b'K';
    pub(super) const LONG: u8 = b'L';
    pub(super) const BININT2: u8 = b'M';
    pub(super) const NONE: u8 = b'N';
    pub(super) const BINPERSID: u8 = b'Q';
    pub(super) const REDUCE: u8 = b'R';
    pub(super) const STRING: u8 = b'S';
    pub(super) const BINSTRING: u8 = b'T';
    pub(super) const SHORT_BINSTRING: u8 = b'U';
    pub(super) const UNICODE: u8 = b'V';
    pub(super) const BINUNICODE: u8 = b'X';
    pub(super) const APPEND: u8 = b'a';
    pub(super) const BUILD: u8 = b'b';
    pub(super) const GLOBAL: u8 = b'c';
    pub(super) const DICT: u8 = b'd';
    pub(super) const EMPTY_DICT: u8 = b'}';
    pub(super) const APPENDS: u8 = b'e';
    pub(super) const GET: u8 = b'g';
    pub(super) const BINGET: u8 = b'h';
    pub(super) const INST: u8 = b'i';
    pub(super) const LONG_BINGET: u8 = b'j';
    pub(super) const LIST: u8 = b'l';
    pub(super) const EMPTY_LIST: u8 = b']';
    pub(super) const OBJ: u8 = b'o';
    pub(super) const PUT: u8 = b'p';
    pub(super) const BINPUT: u8 = b'q';
    pub(super) const LONG_BINPUT: u8 = b'r';
    pub(super) const SETITEM: u8 = b's';
    pub(super) const TUPLE: u8 = b't';
    pub(super) const EMPTY_TUPLE: u8 = b')';
    pub(super) const SETITEMS: u8 = b'u';
    pub(super) const BINFLOAT: u8 = b'G';
    pub(super) const BINBYTES: u8 = b'B';
    pub(super) const SHORT_BINBYTES: u8 = b'C';
    pub(super) const PROTO: u8 = 0x80;
    pub(super) const NEWOBJ: u8 = 0x81;
    pub(super) const TUPLE1: u8 = 0x85;
    pub(super) const TUPLE3: u8 = 0x87;
    pub(super) const NEWTRUE: u8 = 0x88;
    pub(super) const NEWFALSE: u8 = 0x89;
    pub(super) const LONG1: u8 = 0x8a;
    pub(super) const LONG4: u8 = 0x8b;
    pub(super) const SHORT_BINUNICODE: u8 = 0x8c;
    pub(super) const BINUNICODE8: u8 = 0x8d;
    pub(super) const BINBYTES8: u8 = 0x8e;
    pub(super) const EMPTY_SET: u8 = 0x8f;
    pub(super) const ADDITEMS: u8 = 0x90;
    pub(super) const FROZENSET: u8 = 0x91;
    pub(super) const NEWOBJ_EX: u8 = 0x92;
    pub(super) const STACK_GLOBAL: u8 = 0x93;
    pub(super) const MEMOIZE: u8 = 0x94;
    pub(super) const FRAME: u8 = 0x95;
    pub(super) const BYTEARRAY8: u8 = 0x96;
}

impl Machine {
    fn step(&mut self, opcode: u8, at: u64, input: &mut Cursor<'_>) -> Step<()> {
        match opcode {
            op::PROTO => {
                if input.byte()? > 5 {
                    return Err(Fault::Malformed("a pickle protocol later than 5"));
                }
            }
            // Frames only tell how much to read ahead.
            op::FRAME => input.skip(8)?,
            op::MARK => {
                if self.marks.len() >= MAX_STACK {
                    return Err(Fault::Limit("the pickle opens too many groups", MAX_STACK as u64));
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
                let digits =
                    std::str::from_utf8(&line).map_err(|_| Fault::Malformed("an integer that is not digits"))?;
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
            // Sets cannot hold what we look for.
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
                let utf8 = |bytes| String::from_utf8(bytes).map_err(|_| Fault::Malformed("a global that is not UTF-8"));
                let global = self.global(&utf8(module)?, &utf8(name)?)?;
                self.push(global)?;
            }
            op::STACK_GLOBAL => {
                let (name, module) = (self.pop()?, self.pop()?);
                let text =
                    |v| self.heap.text(v).map(str::to_owned).ok_or(Fault::Malformed("a global named by no string"));
                let (module, name) = (text(module)?, text(name)?);
                let global = self.global(&module, &name)?;
                self.push(global)?;
            }
            op::REDUCE | op::NEWOBJ => {
                let (args, callable) = (self.pop()?, self.pop()?);
                let made = self.call(callable, args)?;
                self.push(made)?;
            }
            op::NEWOBJ_EX => {
                let (_, args, callable) = (self.pop()?, self.pop()?, self.pop()?);
                let made = self.call(callable, args)?;
                self.push(made)?;
            }
            op::INST => {
                let (module, name) = (input.line(MAX_LINE)?, input.line(MAX_LINE)?);
                self.group()?;
                let global = self.global(&String::from_utf8_lossy(&module), &String::from_utf8_lossy(&name))?;
                let made = self.opaque(global)?;
                self.push(made)?;
            }
            op::OBJ => {
                let items = self.group()?;
                let class = *items.first().ok_or(Fault::Malformed("an object without a class"))?;
                let made = self.opaque(class)?;
                self.push(made)?;
            }
            // The state of an object (of a tensor: Python attributes; of an OrderedDict: `_metadata`) is not for us.
            op::BUILD => {
                self.pop()?;
                self.top()?;
            }
            op::BINPERSID => {
                let id = self.pop()?;
                let made = self.persistent(id, at)?;
                self.push(made)?;
            }
            _ => return Err(Fault::UnknownOpcode(opcode)),
        }
        Ok(())
    }

    /// Height below which the current group may not pop.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn push(&mut self, value: Value) -> Step<()> {
        if self.stack.len() >= MAX_STACK {
            return Err(Fault::Limit("the pickle's stack is too high", MAX_STACK as u64));
        }
        self.stack.push(value);
        Ok(())
    }

    fn pop(&mut self) -> Step<Value> {
        if self.stack.len() <= self.floor() {
            return Err(Fault::Malformed("an instruction wants more values than there are"));
        }
        self.stack.pop().ok_or(Fault::Malformed("an instruction wants more values than there are"))
    }

    fn top(&self) -> Step<Value> {
        match self.stack.last() {
            Some(&value) if self.stack.len() > self.floor() => Ok(value),
            _ => Err(Fault::Malformed("an instruction wants a value and there is none")),
        }
    }

    /// Takes all values since the last mark, and the mark.
    fn group(&mut self) -> Step<Vec<Value>> {
        let floor = self.marks.pop().ok_or(Fault::Malformed("an instruction wants a mark and there is none"))?;
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
            return Err(Fault::Limit("the pickle remembers too many values", MAX_MEMO as u64));
        }
        Ok(())
    }

    fn recall(&mut self, number: u32) -> Step<()> {
        let value =
            *self.memo.get(&number).ok_or(Fault::Malformed("an instruction recalls what was never remembered"))?;
        self.push(value)
    }

    /// A length of four bytes; some of them are signed.
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

    /// Strings that are not UTF-8 (Python 2 bytes, lone surrogates) can name nothing: they become opaque.
    fn keep_text(&mut self, bytes: Vec<u8>) -> Step<()> {
        match String::from_utf8(bytes) {
            Ok(text) => {
                let content = text.len();
                self.add(Object::Text(text.into_boxed_str()), content)
            }
            Err(_) => self.push(Value::Scalar),
        }
    }

    /// The strings of protocol 0. Escapes are not resolved: a string that has one becomes opaque.
    fn quoted(&mut self, opcode: u8, mut line: Vec<u8>) -> Step<()> {
        if opcode == op::STRING {
            let quote = line.first().copied();
            if line.len() < 2 || !matches!(quote, Some(b'\'' | b'"')) || line.last().copied() != quote {
                return Err(Fault::Malformed("a string without its quotes"));
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

    /// What calling `class` would have made; nothing is called.
    fn opaque(&mut self, class: Value) -> Step<Value> {
        let of: ObjectId = match class {
            Value::Object(id) => match self.heap.get(id) {
                Object::Global(..) => id,
                Object::Opaque(of) => *of,
                _ => return Err(Fault::Malformed("a call of what cannot be called")),
            },
            _ => return Ok(Value::Scalar),
        };
        Ok(self.heap.add(Object::Opaque(of), 0)?)
    }

    fn append(&mut self, items: &[Value]) -> Step<()> {
        // An opaque object may stand for a list of its own class.
        let Value::Object(id) = self.top()? else { return Ok(()) };
        match self.heap.get_mut(id) {
            Object::Sequence(list) => list.extend_from_slice(items),
            Object::Opaque(_) => return Ok(()),
            _ => return Err(Fault::Malformed("items are appended to what is no list")),
        }
        // Twice, since vectors grow by doubling.
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
            _ => return Err(Fault::Malformed("items are set in what is no dict")),
        }
        Ok(self.heap.charge(2 * size_of_val(items))?)
    }
}

/// The number of a remembered value, in digits.
fn number(line: &[u8]) -> Step<u32> {
    std::str::from_utf8(line)
        .ok()
        .and_then(|s| s.parse().ok())
        .ok_or(Fault::Malformed("a memo number that is not digits"))
}
