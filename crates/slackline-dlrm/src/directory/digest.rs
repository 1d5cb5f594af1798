//! A model in one number, from what its files say of themselves.

use std::fmt::Write;

use xxhash_rust::xxh3::xxh3_128;

use super::ModelDirectory;

impl ModelDirectory {
    /// A digest of the model: its configuration, the format and the checksum of every table, and the checksums of the dense
    /// weights. Equal for equal models, wherever they lie and however their tables are spread over files, as written by one
    /// version of this program. It reads no weights; that they match their checksums is for [`verify`](Self::verify).
    pub fn digest(&self) -> u128 {
        let mut text = format!("{:?}", self.config);
        for table in self.shard_tables() {
            let _ = write!(
                text,
                "\n{} {} {} {} {} {:016x}",
                table.table, table.first_row, table.rows, table.dim, table.row_format, table.xxh3
            );
        }
        for (tensor, file) in &self.dense {
            let _ = write!(text, "\n{} {}", tensor.name, self.dense_files[*file].checksum(&tensor.name));
        }
        xxh3_128(text.as_bytes())
    }
}
