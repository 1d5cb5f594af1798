//! The header of a shard: the only code that writes and checks it.

use std::collections::BTreeMap;

use xxhash_rust::xxh3::xxh3_64;

use super::error::ShardDefect;
use super::json::Json;
use super::layout::{PAGE, PREFIX, VERSION};
use crate::{MAX_DIM, RowFormat};

const FORMAT: &str = "slackline.shard";
const TABLE_KEY: &str = "table:";
const CHECKSUM_KEY: &str = "header_xxh3";
/// How the header's own checksum stands in it. A quote within a name is escaped, so this occurs nowhere else.
const CHECKSUM_FIELD: &[u8] = b"\"header_xxh3\":\"";
const CHECKSUM_DIGITS: usize = 16;

/// One table, or part of one, as a shard's header describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShardTable {
    /// The tensor's name, unique within the file.
    pub tensor: String,
    /// The table that the rows belong to; the tensor's name if the whole table is here.
    pub table: String,
    /// The number, within that table, of the first row here.
    pub first_row: u64,
    /// The rows here.
    pub rows: u64,
    /// The columns of a row, 1 to [`MAX_DIM`].
    pub dim: usize,
    /// How a row is stored.
    pub row_format: RowFormat,
    /// Where the rows start, in bytes from the beginning of the file.
    pub offset: u64,
    /// The bytes of all rows.
    pub bytes: u64,
    /// The XXH3-64 that these bytes should have.
    pub xxh3: u64,
}

/// The bytes before the data section, length and padding included, for tables whose offsets count from the start of the
/// data section. Their number depends on names and shapes, not on checksums.
pub(super) fn render(tables: &[ShardTable]) -> Vec<u8> {
    let mut metadata: BTreeMap<String, String> =
        [("format", FORMAT), ("version", VERSION), (CHECKSUM_KEY, "0000000000000000")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
    let mut tensors = BTreeMap::new();
    for table in tables {
        let ShardTable { first_row, rows, dim, row_format, xxh3, .. } = table;
        let described = format!(
            r#"{{"row_format":{},"table":{},"first_row":{first_row},"rows":{rows},"dim":{dim},"xxh3":"{xxh3:016x}"}}"#,
            quoted(&row_format.to_string()),
            quoted(&table.table)
        );
        metadata.insert(format!("{TABLE_KEY}{}", table.tensor), described);
        let (dtype, [rows, columns]) = tensor_type(*row_format, *rows, *dim as u64);
        let (begin, end) = (table.offset, table.offset + table.bytes);
        let tensor = format!(r#"{{"dtype":"{dtype}","shape":[{rows},{columns}],"data_offsets":[{begin},{end}]}}"#);
        tensors.insert(&table.tensor, tensor);
    }
    let metadata: Vec<_> = metadata.iter().map(|(key, value)| format!("{}:{}", quoted(key), quoted(value))).collect();
    let mut header = format!(r#"{{"__metadata__":{{{}}}"#, metadata.join(","));
    for (name, tensor) in tensors {
        header += &format!(",{}:{tensor}", quoted(name));
    }
    let mut bytes = (header + "}").into_bytes();
    let whole = (PREFIX as usize + bytes.len()).next_multiple_of(PAGE as usize);
    bytes.resize(whole - PREFIX as usize, b' ');
    let checksum = format!("{:016x}", xxh3_64(&bytes));
    let at = checksum_at(&bytes).expect("the field was just written");
    bytes[at..at + CHECKSUM_DIGITS].copy_from_slice(checksum.as_bytes());
    [&(bytes.len() as u64).to_le_bytes()[..], &bytes].concat()
}

/// Reads and checks the `N` bytes of a header. The tables come in the order of their bytes, with offsets that count from
/// the beginning of the file; the second value is the length that the file must have.
pub(super) fn parse(bytes: Vec<u8>) -> Result<(Vec<ShardTable>, u64), ShardDefect> {
    let syntax = |why| ShardDefect::HeaderSyntax { why };
    let header = serde_json::from_slice(&bytes).map_err(|error| syntax(error.to_string()))?;
    let mut tensors = Fields::of("the header", header).map_err(syntax)?.left;
    let mut metadata = match tensors.remove("__metadata__") {
        Some(metadata) => strings(metadata).map_err(syntax)?,
        None => BTreeMap::new(),
    };
    let format = metadata.remove("format");
    if format.as_deref() != Some(FORMAT) {
        return Err(ShardDefect::Format { found: format });
    }
    let mut take = |key: &str| {
        metadata.remove(key).ok_or_else(|| ShardDefect::Metadata { key: key.to_owned(), why: "missing".to_owned() })
    };
    let version = take("version")?;
    if version != VERSION {
        return Err(ShardDefect::Version { found: version });
    }
    let claimed = hex(&take(CHECKSUM_KEY)?).map_err(|why| metadata_defect(CHECKSUM_KEY, why))?;
    let data = PREFIX + bytes.len() as u64;
    check_header_checksum(bytes, claimed)?;
    if !data.is_multiple_of(PAGE) {
        return Err(ShardDefect::Alignment { at: data });
    }

    let mut tables = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        let tensor = Tensor::of(&name, tensor).map_err(syntax)?;
        let described = take(&format!("{TABLE_KEY}{name}"))?;
        tables.push(table(name, &tensor, &described)?);
    }
    if let Some((key, _)) = metadata.into_iter().find(|(key, _)| key.starts_with(TABLE_KEY)) {
        return Err(metadata_defect(&key, "there is no such tensor"));
    }

    tables.sort_by_key(|table| (table.offset, table.bytes));
    let mut end = 0;
    for table in &mut tables {
        let (name, expected, found) = (|| table.tensor.clone(), end, table.offset);
        if found < expected {
            return Err(ShardDefect::Overlap { table: name(), expected, found });
        }
        if found > expected {
            return Err(ShardDefect::Hole { table: name(), expected, found });
        }
        let whole = end.checked_add(table.bytes).filter(|end| end.checked_add(data).is_some());
        end = whole.ok_or_else(|| impossible(table))?;
        table.offset += data;
    }
    Ok((tables, data + end))
}

/// A tensor's entry.
struct Tensor {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

impl Tensor {
    fn of(name: &str, entry: Json) -> Result<Self, String> {
        let mut entry = Fields::of(name, entry)?;
        let tensor = Tensor {
            dtype: entry.string("dtype")?,
            shape: entry.numbers("shape")?,
            data_offsets: entry.numbers("data_offsets")?.try_into().map_err(|_| entry.wrong("data_offsets"))?,
        };
        entry.end()?;
        Ok(tensor)
    }
}

/// The value of `table:<name>`, as a JSON string.
struct Description {
    row_format: String,
    table: String,
    first_row: u64,
    rows: u64,
    dim: u64,
    xxh3: String,
}

impl Description {
    fn of(described: &str) -> Result<Self, String> {
        let mut fields = Fields::of("it", serde_json::from_str(described).map_err(|error| error.to_string())?)?;
        let described = Description {
            row_format: fields.string("row_format")?,
            table: fields.string("table")?,
            first_row: fields.number("first_row")?,
            rows: fields.number("rows")?,
            dim: fields.number("dim")?,
            xxh3: fields.string("xxh3")?,
        };
        fields.end()?;
        Ok(described)
    }
}

/// An object whose fields are taken one by one, until none is left. By hand, so that a program on this
/// crate alone does not build the macros of serde.
struct Fields<'a> {
    of: &'a str,
    left: BTreeMap<String, Json>,
}

impl<'a> Fields<'a> {
    fn of(of: &'a str, object: Json) -> Result<Self, String> {
        match object {
            Json::Object(left) => Ok(Fields { of, left }),
            _ => Err(format!("{of:?} is no object")),
        }
    }

    fn wrong(&self, field: &str) -> String {
        format!("{:?} has a wrong value for {field:?}, or none", self.of)
    }

    fn string(&mut self, field: &str) -> Result<String, String> {
        match self.left.remove(field) {
            Some(Json::String(string)) => Ok(string),
            _ => Err(self.wrong(field)),
        }
    }

    fn number(&mut self, field: &str) -> Result<u64, String> {
        match self.left.remove(field) {
            Some(Json::Number(number)) => Ok(number),
            _ => Err(self.wrong(field)),
        }
    }

    fn numbers(&mut self, field: &str) -> Result<Vec<u64>, String> {
        match self.left.remove(field) {
            Some(Json::Numbers(numbers)) => Ok(numbers),
            _ => Err(self.wrong(field)),
        }
    }

    /// Nothing is left.
    fn end(self) -> Result<(), String> {
        match self.left.keys().next() {
            Some(unknown) => Err(format!("{:?} has an unknown field {unknown:?}", self.of)),
            None => Ok(()),
        }
    }
}

/// An object of strings.
fn strings(object: Json) -> Result<BTreeMap<String, String>, String> {
    let mut fields = Fields::of("__metadata__", object)?;
    let keys: Vec<String> = fields.left.keys().cloned().collect();
    keys.into_iter().map(|key| fields.string(&key).map(|value| (key, value))).collect()
}

/// A string as JSON has it.
fn quoted(string: &str) -> String {
    serde_json::to_string(string).expect("a string is JSON")
}

/// The safetensors type and shape of a table's rows.
fn tensor_type(format: RowFormat, rows: u64, dim: u64) -> (&'static str, [u64; 2]) {
    match format {
        RowFormat::F32 => ("F32", [rows, dim]),
        RowFormat::F16 => ("F16", [rows, dim]),
        RowFormat::Bf16 => ("BF16", [rows, dim]),
        // Rows whose parts have no name in safetensors are bytes.
        quantised => ("U8", [rows, quantised.row_bytes((dim as usize).min(MAX_DIM)) as u64]),
    }
}

/// Combines the tensor's entry and the metadata of one table.
fn table(name: String, tensor: &Tensor, described: &str) -> Result<ShardTable, ShardDefect> {
    let key = format!("{TABLE_KEY}{name}");
    let described = Description::of(described).map_err(|why| metadata_defect(&key, why))?;
    let xxh3 = hex(&described.xxh3).map_err(|why| metadata_defect(&key, why))?;
    let row_format: RowFormat =
        described.row_format.parse().map_err(|source| ShardDefect::RowFormat { table: name.clone(), source })?;
    let Description { table, first_row, rows, dim, .. } = described;

    let contradiction = |what, entry: String, metadata: String| {
        Err(ShardDefect::Contradiction { table: name.clone(), what, entry, metadata })
    };
    let (dtype, shape) = tensor_type(row_format, rows, dim);
    if tensor.dtype != dtype {
        return contradiction("dtype", tensor.dtype.clone(), dtype.to_owned());
    }
    if tensor.shape != shape {
        return contradiction("shape", format!("{:?}", tensor.shape), format!("{shape:?}"));
    }
    let bytes = Some(dim as usize)
        .filter(|dim| (1..=MAX_DIM).contains(dim) && first_row.checked_add(rows).is_some())
        .and_then(|dim| rows.checked_mul(row_format.row_bytes(dim) as u64));
    let Some(bytes) = bytes else { return Err(ShardDefect::Shape { table: name, rows, first_row, dim }) };
    let [offset, end] = tensor.data_offsets;
    if end.checked_sub(offset) != Some(bytes) {
        let entry = format!("bytes {offset} to {end}");
        return contradiction("data", entry, format!("{bytes} bytes long"));
    }
    Ok(ShardTable { tensor: name, table, first_row, rows, dim: dim as usize, row_format, offset, bytes, xxh3 })
}

fn check_header_checksum(mut bytes: Vec<u8>, expected: u64) -> Result<(), ShardDefect> {
    let at =
        checksum_at(&bytes).ok_or_else(|| metadata_defect(CHECKSUM_KEY, "not written in the one way it may be"))?;
    bytes[at..at + CHECKSUM_DIGITS].fill(b'0');
    let found = xxh3_64(&bytes);
    if found != expected { Err(ShardDefect::HeaderChecksum { expected, found }) } else { Ok(()) }
}

/// Where the digits of the header's own checksum stand.
fn checksum_at(header: &[u8]) -> Option<usize> {
    let at = header.windows(CHECKSUM_FIELD.len()).position(|bytes| bytes == CHECKSUM_FIELD)? + CHECKSUM_FIELD.len();
    (at + CHECKSUM_DIGITS <= header.len()).then_some(at)
}

fn hex(digits: &str) -> Result<u64, String> {
    // Written in one way only, so that no altered digit goes unseen.
    let value = u64::from_str_radix(digits, 16).ok().filter(|value| format!("{value:016x}") == digits);
    value.ok_or_else(|| format!("{digits:?} is no checksum of {CHECKSUM_DIGITS} lowercase hexadecimal digits"))
}

fn metadata_defect(key: &str, why: impl Into<String>) -> ShardDefect {
    ShardDefect::Metadata { key: key.to_owned(), why: why.into() }
}

fn impossible(table: &ShardTable) -> ShardDefect {
    let ShardTable { tensor, rows, first_row, dim, .. } = table;
    ShardDefect::Shape { table: tensor.clone(), rows: *rows, first_row: *first_row, dim: *dim as u64 }
}
