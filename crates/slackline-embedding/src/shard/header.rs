//! The header of a shard: the only code that writes and checks it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::error::ShardDefect;
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
        let described = Description {
            row_format: table.row_format.to_string(),
            table: table.table.clone(),
            first_row: table.first_row,
            rows: table.rows,
            dim: table.dim as u64,
            xxh3: format!("{:016x}", table.xxh3),
        };
        let described = serde_json::to_string(&described).expect("strings and numbers are JSON");
        metadata.insert(format!("{TABLE_KEY}{}", table.tensor), described);
        let (dtype, shape) = tensor_type(table.row_format, table.rows, table.dim as u64);
        let data_offsets = (table.offset, table.offset + table.bytes);
        tensors.insert(table.tensor.clone(), Tensor { dtype: dtype.to_owned(), shape: shape.to_vec(), data_offsets });
    }
    let header = Header { metadata: Some(metadata), tensors };
    let mut bytes = serde_json::to_vec(&header).expect("strings and numbers are JSON");
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
    let header: Header =
        serde_json::from_slice(&bytes).map_err(|error| ShardDefect::HeaderSyntax { why: error.to_string() })?;
    let mut metadata = header.metadata.unwrap_or_default();
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

    let mut tables = Vec::with_capacity(header.tensors.len());
    for (name, tensor) in header.tensors {
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

#[derive(Serialize, Deserialize)]
struct Header {
    #[serde(rename = "__metadata__", skip_serializing_if = "Option::is_none")]
    metadata: Option<BTreeMap<String, String>>,
    #[serde(flatten)]
    tensors: BTreeMap<String, Tensor>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tensor {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// The value of `table:<name>`, as a JSON string.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    row_format: String,
    table: String,
    first_row: u64,
    rows: u64,
    dim: u64,
    xxh3: String,
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
    let described: Description =
        serde_json::from_str(described).map_err(|error| metadata_defect(&key, error.to_string()))?;
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
    let (offset, end) = tensor.data_offsets;
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
