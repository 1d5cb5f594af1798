//! Micro-benchmarks of the layers; see `README.md` of this folder.
