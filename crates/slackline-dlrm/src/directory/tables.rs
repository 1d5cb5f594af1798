//! Loading tables from a model directory.

use std::ops::Range;
use std::sync::Arc;

use slackline_embedding::compressed::{Combine, ProjectedTable, QuotientRemainderTable, RemappedTable, RowMap};
use slackline_embedding::{Cuts, EmbeddingTable, HotRows, Load, Part, Plan, ShardTable, TableCost, Verify};

use super::ModelDirectory;
use super::tensors::table_tensors;
use crate::{DlrmError, RankTables, Result, TableKind};

impl ModelDirectory {
    /// What the planner must know of each table. `lookups_per_sample` is 1; set it if you know better.
    pub fn tables(&self) -> Vec<TableCost> {
        let cost = |table: usize| {
            let parts: Vec<&ShardTable> =
                table_tensors(&self.config, table).iter().map(|tensor| self.shard_table(&tensor.name)).collect();
            let row_bytes = |part: &ShardTable| part.row_format.row_bytes(part.dim) as u64;
            let (rows, dim) = (self.config.rows()[table] as u64, self.config.dim());
            let (cuts, row_bytes) = match self.config.kind(table) {
                TableKind::Plain => (Cuts::Both, row_bytes(parts[0])),
                TableKind::Hashed { .. } => (Cuts::Columns, row_bytes(parts[0])),
                TableKind::QuotientRemainder { .. } => (Cuts::Columns, row_bytes(parts[0]) + row_bytes(parts[1])),
                TableKind::MixedDimension { columns } if columns == dim => (Cuts::Both, row_bytes(parts[0])),
                TableKind::MixedDimension { .. } => (Cuts::Rows, row_bytes(parts[0])),
            };
            let stored = parts.iter().map(|part| part.bytes).sum();
            let cost = TableCost::new(&parts[0].table, rows, dim, row_bytes);
            TableCost { cuts, stored_bytes: (stored != cost.bytes()).then_some(stored), ..cost }
        };
        (0..self.config.tables()).map(cost).collect()
    }

    /// Loads tables by number, in the given order.
    ///
    /// With [`Verify::Checksums`] each table is read once and its checksum verified. With [`Verify::HeaderOnly`] and
    /// [`Load::Mapped`] nothing is read, and rows come from the disk when they are first looked up.
    ///
    /// # Errors
    ///
    /// [`DlrmError::NoSuchTable`]; [`DlrmError::Shard`] for a table that does not match its checksum, a disk
    /// error, or too little memory.
    pub fn load_tables(&self, tables: &[usize], how: Load, verify: Verify) -> Result<Vec<Arc<dyn EmbeddingTable>>> {
        let load = |&table: &usize| {
            let part = self.whole(table);
            self.load_part(&part, how, verify, &mut |_| ())
        };
        tables.iter().map(load).collect()
    }

    /// Loads parts of tables, in the given order; see [`load_tables`](Self::load_tables).
    ///
    /// # Errors
    ///
    /// Those of [`load_tables`](Self::load_tables); [`DlrmError::NoPart`] if a table has no such part.
    pub fn load_parts(&self, parts: &[Part], how: Load, verify: Verify) -> Result<Vec<Arc<dyn EmbeddingTable>>> {
        parts.iter().map(|part| self.load_part(part, how, verify, &mut |_| ())).collect()
    }

    /// Loads all that a rank holds by a plan: its parts, the replicated tables, and copies of hot rows. `progress` is given
    /// the bytes that were read or faulted in since its last call.
    ///
    /// # Errors
    ///
    /// Those of [`load_parts`](Self::load_parts); [`DlrmError::NoPart`] for hot rows of a compressed table.
    pub fn load_rank(
        &self,
        plan: &Plan,
        rank: usize,
        how: Load,
        verify: Verify,
        progress: &mut dyn FnMut(u64),
    ) -> Result<RankTables> {
        let hot = (0..self.config.tables()).filter(|table| !plan.hot_rows(*table).is_empty());
        let copy = |table: usize| {
            let name = &table_tensors(&self.config, table)[0].name;
            if self.config.kind(table) != TableKind::Plain {
                return Err(DlrmError::NoPart {
                    table,
                    defect: "hot rows of a compressed table are not supported".to_owned(),
                });
            }
            let mapped = self.shard_of(name).table(name)?;
            let rows = HotRows::new(name, plan.hot_rows(table), mapped.stored());
            mapped.check()?;
            Ok(Arc::new(rows))
        };
        let mut load = |part: &Part| self.load_part(part, how, verify, progress);
        Ok(RankTables {
            parts: plan.parts_of(rank).iter().map(&mut load).collect::<Result<_>>()?,
            replicated: plan.replicated().iter().map(|&table| load(&self.whole(table))).collect::<Result<_>>()?,
            hot: hot.map(copy).collect::<Result<_>>()?,
        })
    }

    /// The whole of a table. The table need not exist.
    fn whole(&self, table: usize) -> Part {
        let rows = self.config.rows().get(table).copied().unwrap_or(0) as u64;
        Part { table, rank: 0, rows: 0..rows, columns: 0..self.config.dim(), lookups_per_sample: 0.0 }
    }

    fn load_part(
        &self,
        part: &Part,
        how: Load,
        verify: Verify,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Arc<dyn EmbeddingTable>> {
        let config = &self.config;
        let (table, rows, columns) = (part.table, part.rows.clone(), part.columns.clone());
        if table >= config.tables() {
            return Err(DlrmError::NoSuchTable { table, tables: config.tables() });
        }
        let (all, dim) = (0..config.rows()[table] as u64, config.dim());
        let tensors = table_tensors(config, table);
        let mut load = |tensor: usize, rows: Range<u64>, columns: Range<usize>| {
            let name = &tensors[tensor].name;
            self.shard_of(name).load_part(name, rows, columns, how, verify, progress)
        };
        let held = |tensor: usize| 0..tensors[tensor].shape[0] as u64;
        let part = |defect: String| DlrmError::NoPart { table, defect };
        let no_part = |what: &str| part(format!("{what} cannot be cut to rows {rows:?}, columns {columns:?}"));
        let odd = |error: &dyn std::error::Error| part(error.to_string());
        Ok(match config.kind(table) {
            TableKind::Plain => load(0, rows, columns)?,
            TableKind::Hashed { .. } if rows != all => return Err(no_part("a hashed table")),
            TableKind::Hashed { .. } => {
                let small = load(0, held(0), columns)?;
                Arc::new(RemappedTable::new(small, all.end, RowMap::Modulo).map_err(|error| odd(&error))?)
            }
            TableKind::QuotientRemainder { .. } if rows != all => return Err(no_part("a quotient-remainder table")),
            TableKind::QuotientRemainder { collisions, operation } => {
                let width = config.stored_columns(table);
                let (first, second) = match operation {
                    Combine::Concatenate => {
                        let second = columns.start.max(width) - width..columns.end.max(width) - width;
                        (columns.start.min(width)..columns.end.min(width), second)
                    }
                    _ => (columns.clone(), columns),
                };
                let quotient = (!first.is_empty()).then(|| load(0, held(0), first)).transpose()?;
                let remainder = (!second.is_empty()).then(|| load(1, held(1), second)).transpose()?;
                let divisor = collisions as u64;
                let remapped = |table, map| RemappedTable::new(table, all.end, map).map_err(|error| odd(&error));
                match (quotient, remainder) {
                    (Some(quotient), None) => Arc::new(remapped(quotient, RowMap::Quotient { divisor })?),
                    (None, Some(remainder)) => Arc::new(remapped(remainder, RowMap::Modulo)?),
                    (Some(quotient), Some(remainder)) => {
                        let table = QuotientRemainderTable::new(quotient, remainder, all.end, operation);
                        Arc::new(table.map_err(|error| odd(&error))?)
                    }
                    (None, None) => return Err(part("the part has no columns".to_owned())),
                }
            }
            TableKind::MixedDimension { columns: narrow } if narrow == dim => load(0, rows, columns)?,
            TableKind::MixedDimension { .. } if columns != (0..dim) => return Err(no_part("a projected table")),
            TableKind::MixedDimension { columns: narrow } => {
                let matrix = self.shard_of(&tensors[1].name);
                if verify == Verify::Checksums {
                    matrix.verify(&tensors[1].name)?;
                }
                let matrix = matrix.table(&tensors[1].name)?;
                let mut values = vec![0.0; dim * narrow];
                for (row, values) in values.chunks_exact_mut(narrow).enumerate() {
                    matrix.stored().decode(row as u64, values);
                }
                matrix.check()?;
                let table = ProjectedTable::new(load(0, rows, 0..narrow)?, &values);
                Arc::new(table.map_err(|error| odd(&error))?)
            }
        })
    }
}
