//! Rows of a whole model as PyTorch quantised them, where `SLACKLINE_SHARED_DATA` names a folder that has them.

use safetensors::SafeTensors;
use slackline_data::NpzFile;
use slackline_embedding::RowFormat;

use crate::common::shared_data;

#[test]
fn the_tables_of_the_tiny_model_get_the_bytes_of_pytorch() {
    let Some(data) = shared_data() else { return };
    let bytes = std::fs::read(data.join("golden/dlrm_tiny.safetensors")).unwrap();
    let model = SafeTensors::deserialize(&bytes).unwrap();
    let mut expected = NpzFile::open(data.join("golden/dlrm_tiny_quant_rows.npz")).unwrap();
    let tables = model.names().iter().filter(|name| name.starts_with("emb_l.")).count();
    assert!(tables > 0);
    for table in 0..tables {
        let weight = model.tensor(&format!("emb_l.{table}.weight")).unwrap();
        let dim = weight.shape()[1];
        let values: Vec<f32> = weight.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        for format in [RowFormat::Int8, RowFormat::Int4] {
            let mut found = vec![0; values.len() / dim * format.row_bytes(dim)];
            for (row, out) in values.chunks(dim).zip(found.chunks_mut(format.row_bytes(dim))) {
                format.encode(row, out).unwrap();
            }
            let (shape, expected) = expected.u8(&format!("{format}_{table}")).unwrap();
            assert_eq!(shape, [values.len() / dim, format.row_bytes(dim)]);
            assert!(found == expected, "table {table} as {format}");
        }
    }
}
