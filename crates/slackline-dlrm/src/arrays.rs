//! Predictions for programs that hold their features in arrays of `ndarray`.

use ndarray::{Array1, ArrayView2};
use slackline_data::{Batch, TableInput};

use crate::{LocalModel, Result};

impl LocalModel {
    /// [`predict`](Self::predict) for dense features `[samples, dense_features]` of any memory order, and the lookups of each
    /// table; returns `[samples]`.
    ///
    /// Cost: that of [`predict`](Self::predict), one copy of the dense features, and the array that is returned.
    ///
    /// # Errors
    ///
    /// Those of [`predict`](Self::predict).
    ///
    /// # Examples
    ///
    /// ```
    /// # use slackline_dlrm::{Load, LocalModel, ModelConfig, ModelDirectory, TableInput, Verify, write_synthetic};
    /// # let config = ModelConfig::from_json(
    /// #     r#"{"arch_sparse_feature_size": 4, "arch_embedding_size": "10", "arch_mlp_bot": "3-4", "arch_mlp_top": "5-1"}"#,
    /// # )?.config;
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("model");
    /// # write_synthetic(&config, 7, &path, 1, &mut |_| ())?;
    /// # let directory = ModelDirectory::open(&path)?;
    /// # let tables = directory.load_tables(&[0], Load::Copied, Verify::Checksums)?;
    /// # let mut model = LocalModel::new(directory.load_dense()?, tables)?;
    /// let dense = ndarray::array![[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]];
    /// let table = TableInput { indices: vec![3, 3, 9], offsets: vec![0, 2, 3], ..TableInput::default() };
    /// let predictions = model.predict_arrays(dense.view(), vec![table])?;
    /// assert_eq!(predictions.len(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn predict_arrays(&mut self, dense: ArrayView2<'_, f32>, tables: Vec<TableInput>) -> Result<Array1<f32>> {
        let batch =
            Batch { samples: dense.nrows(), dense: dense.iter().copied().collect(), tables, ..Batch::default() };
        let mut predictions = Vec::new();
        self.predict(&batch, &mut predictions)?;
        Ok(predictions.into())
    }
}
