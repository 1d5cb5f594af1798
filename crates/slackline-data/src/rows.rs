//! Categories into rows of tables.

use std::path::{Path, PathBuf};

#[cfg(feature = "npz")]
use crate::npz::NpzFile;
use crate::preprocessing::SparseTransform;
use crate::{DataError, InputOptions, InputShape};

/// The rule by which the categories of every table become rows.
pub(crate) struct Rows {
    transform: SparseTransform,
    tables: Vec<usize>,
    /// One for each table, with [`SparseTransform::Dictionary`].
    dictionaries: Vec<Dictionary>,
}

/// The file of a table's dictionary.
pub(crate) fn dictionary_file(prefix: &Path, table: usize) -> PathBuf {
    let mut name = prefix.as_os_str().to_owned();
    name.push(format!("_fea_dict_{table}.npz"));
    PathBuf::from(name)
}

/// The numbers that a column held when a model's inputs were prepared, each with its position, sorted by number.
struct Dictionary {
    entries: Vec<(u32, u32)>,
}

impl Rows {
    pub(crate) fn new(
        transform: SparseTransform,
        options: &InputOptions,
        shape: &InputShape,
    ) -> Result<Rows, DataError> {
        let tables = shape.table_rows.clone();
        let dictionaries = match (transform, &options.dictionary) {
            (SparseTransform::Dictionary, Some(prefix)) => Dictionary::read_all(prefix, &tables)?,
            _ => Vec::new(),
        };
        Ok(Rows { transform, tables, dictionaries })
    }

    /// The row of a text's category.
    pub(crate) fn of_category(&self, table: usize, category: u64) -> Result<i64, &'static str> {
        let rows = self.tables[table] as u64;
        match self.transform {
            SparseTransform::Modulo => Ok((category % rows) as i64),
            SparseTransform::None if category < rows => Ok(category as i64),
            SparseTransform::None => Err("a row of its table (--sparse-transform none)"),
            _ => {
                let word = u32::try_from(category).map_err(|_| "a hexadecimal number of at most 8 digits")?;
                self.of_word(table, word)
            }
        }
    }

    /// The row of a number in an array.
    #[cfg(feature = "npz")]
    pub(crate) fn of_number(&self, table: usize, number: i64) -> Result<i64, &'static str> {
        let rows = self.tables[table] as i64;
        match self.transform {
            SparseTransform::Modulo => Ok(number.rem_euclid(rows)),
            SparseTransform::None if (0..rows).contains(&number) => Ok(number),
            SparseTransform::None => {
                Err("a row of its table (if these are raw categories, name their --sparse-transform)")
            }
            _ => {
                // Signed or not: the same 32 bits.
                let range = i64::from(i32::MIN)..=i64::from(u32::MAX);
                let word = range.contains(&number).then_some(number as u32).ok_or("an integer of 32 bits")?;
                self.of_word(table, word)
            }
        }
    }

    fn of_word(&self, table: usize, word: u32) -> Result<i64, &'static str> {
        match self.dictionaries.get(table) {
            None => Ok(i64::from(word as i32).rem_euclid(self.tables[table] as i64)),
            Some(dictionary) => dictionary.find(word).ok_or("a category of the dictionary"),
        }
    }

    /// How many tables there are.
    #[cfg(feature = "npz")]
    pub(crate) fn tables(&self) -> usize {
        self.tables.len()
    }

    /// The rows that a table has.
    #[cfg(feature = "npz")]
    pub(crate) fn of_table(&self, table: usize) -> usize {
        self.tables[table]
    }
}

impl Dictionary {
    /// The files `PREFIX_fea_dict_T.npz` of the reference's preprocessing: their array `unique` holds the numbers in order.
    #[cfg(feature = "npz")]
    fn read_all(prefix: &Path, tables: &[usize]) -> Result<Vec<Dictionary>, DataError> {
        let read = |(table, &rows): (usize, &usize)| {
            let mut file = NpzFile::open(dictionary_file(prefix, table))?;
            let (_, unique) = file.i64("unique")?;
            if unique.len() > rows {
                let problem = format!("{} categories, but table {table} has {rows} rows", unique.len());
                return Err(file.problem("unique", problem));
            }
            let mut entries = Vec::with_capacity(unique.len());
            for (position, &number) in unique.iter().enumerate() {
                if !(i64::from(i32::MIN)..=i64::from(u32::MAX)).contains(&number) {
                    return Err(file.problem("unique", format!("element {position}: {number} has more than 32 bits")));
                }
                let position = u32::try_from(position)
                    .map_err(|_| file.problem("unique", format!("{} categories are too many", unique.len())))?;
                entries.push((number as u32, position));
            }
            entries.sort_unstable();
            if let Some(pair) = entries.windows(2).find(|pair| pair[0].0 == pair[1].0) {
                return Err(file.problem("unique", format!("{} appears twice", pair[0].0 as i32)));
            }
            Ok(Dictionary { entries })
        };
        tables.iter().enumerate().map(read).collect()
    }

    #[cfg(not(feature = "npz"))]
    fn read_all(prefix: &Path, _: &[usize]) -> Result<Vec<Dictionary>, DataError> {
        Err(DataError::missing(prefix, "npz"))
    }

    fn find(&self, number: u32) -> Option<i64> {
        let at = self.entries.binary_search_by_key(&number, |entry| entry.0).ok()?;
        Some(self.entries[at].1.into())
    }
}

#[cfg(all(test, feature = "npz"))]
mod tests {
    use super::*;

    #[test]
    fn negative_numbers_wrap_as_in_python() {
        let rows = |transform| Rows { transform, tables: vec![1000], dictionaries: Vec::new() };
        let signed = rows(SparseTransform::ModuloInt32);
        // int(np.int32(0x80e26c9b - 2**32)) % 1000
        assert_eq!(signed.of_category(0, 0x80e2_6c9b), Ok((0x80e2_6c9b_i64 - (1 << 32)).rem_euclid(1000)));
        assert_eq!(signed.of_number(0, 0x80e2_6c9b - (1 << 32)), signed.of_category(0, 0x80e2_6c9b));
        assert_eq!(rows(SparseTransform::Modulo).of_category(0, 0x80e2_6c9b), Ok(0x80e2_6c9b % 1000));
        assert_eq!(rows(SparseTransform::None).of_category(0, 999), Ok(999));
        assert!(rows(SparseTransform::None).of_category(0, 1000).is_err());
        assert!(rows(SparseTransform::None).of_number(0, -1).is_err());
        assert!(signed.of_category(0, 1 << 32).is_err());
    }
}
