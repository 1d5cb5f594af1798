//! A model directory at a glance.

use std::fmt;

use slackline_embedding::ShardTable;

use crate::ModelConfig;

/// A model directory at a glance; its `Display` is some lines for people.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Summary {
    /// The model.
    pub config: ModelConfig,
    /// The version of the program that wrote it.
    pub written_by: String,
    /// Each table as its shard describes it; a compressed one may be two.
    pub tables: Vec<ShardTable>,
    /// Bytes of all tables.
    pub table_bytes: u64,
    /// Weights and biases of both MLPs, in values.
    pub dense_values: usize,
    /// Every file of the index with its bytes, by name.
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
