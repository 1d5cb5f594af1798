//! An overview of a model directory.

use std::fmt;

use slackline_embedding::ShardTable;

use crate::ModelConfig;

/// An overview of a model directory. `Display` writes it as a few lines of text.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Summary {
    /// The model.
    pub config: ModelConfig,
    /// The version of the program that wrote the directory.
    pub written_by: String,
    /// The tables in the shards; a compressed table may be two of them.
    pub tables: Vec<ShardTable>,
    /// The bytes of all tables.
    pub table_bytes: u64,
    /// The number of weights and biases in both MLPs.
    pub dense_values: usize,
    /// Every file in the index with its bytes, sorted by name.
    pub files: Vec<(String, u64)>,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let config = &self.config;
        let itself = if config.interaction_itself() { ", with itself" } else { "" };
        writeln!(f, "DLRM written by slackline {}", self.written_by)?;
        writeln!(f, "bottom MLP    {:?}", config.bottom())?;
        writeln!(f, "interaction   {}{itself}, {} wide", config.interaction_op().name(), config.interaction_width())?;
        writeln!(f, "top MLP       {:?}", config.top())?;
        writeln!(f, "dense values  {}", self.dense_values)?;
        match config.preprocessing() {
            Some(trained) => writeln!(f, "preprocessing {trained}")?,
            None => writeln!(f, "preprocessing not recorded")?,
        }
        let rows: u64 = self.tables.iter().map(|table| table.rows).sum();
        let (tables, dim, bytes) = (config.tables(), config.dim(), self.table_bytes);
        write!(f, "tables        {tables} of {dim} columns, {rows} rows, {bytes} bytes")?;
        for table in &self.tables {
            write!(f, "\n  {:<20} {:>12} rows  {}  {} bytes", table.table, table.rows, table.row_format, table.bytes)?;
        }
        for (name, bytes) in &self.files {
            write!(f, "\n{name}  {bytes} bytes")?;
        }
        Ok(())
    }
}
