//! Pooling kernels over plain slices: the inner loops of [`EmbeddingTable::pool_to`](crate::EmbeddingTable::pool_to).
//!
//! All of them add in the same order and give the same bits; [`naive`] says what is right, the others are fast. They are
//! public so that property tests and benchmarks can compare them; everybody else goes through a table.

mod lookahead;
pub mod naive;
// The one place with `unsafe` that computes: vector instructions and unchecked loads.
#[allow(unsafe_code)]
mod simd;

use std::fmt;
use std::sync::OnceLock;

pub use self::lookahead::{Cache, LookAhead};
use crate::{Bags, Output, Pooling, Rows};

/// The instructions that a kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Isa {
    /// What every machine has.
    Portable,
    /// x86-64 with AVX2, FMA and F16C: vectors of 8.
    Avx2,
    /// x86-64 with AVX-512 F, BW and VL as well: vectors of 16.
    Avx512,
    /// 64-bit Arm: vectors of 4.
    Neon,
}

impl Isa {
    /// What this machine has, the fastest last.
    pub fn available() -> &'static [Isa] {
        static FOUND: OnceLock<Vec<Isa>> = OnceLock::new();
        FOUND.get_or_init(|| {
            let mut found = vec![Isa::Portable];
            #[cfg(target_arch = "x86_64")]
            {
                use std::arch::is_x86_feature_detected as has;
                if has!("avx2") && has!("fma") && has!("f16c") {
                    found.push(Isa::Avx2);
                    if has!("avx512f") && has!("avx512bw") && has!("avx512vl") {
                        found.push(Isa::Avx512);
                    }
                }
            }
            #[cfg(target_arch = "aarch64")]
            found.push(Isa::Neon);
            found
        })
    }

    /// The fastest that this machine has.
    pub fn best() -> Isa {
        *Self::available().last().expect("there is always the portable one")
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Neon => "neon",
        })
    }
}

/// Pools `bags` over `rows` into `out`, `[bags.len(), dim]`, with the given instructions; see
/// [`EmbeddingTable::pool_to`](crate::EmbeddingTable::pool_to) for what is computed. Gives the bits of [`naive::pool`].
///
/// Cost: one pass over the lookups. Rows are requested ahead of their use ([`LookAhead::of`]), so that their way from memory
/// overlaps the work on the rows before them; a block of columns is summed over a bag in registers, and stored once.
///
/// # Panics
///
/// If a length does not fit the others, a mean of weighted bags is asked for, or this machine does not have `isa`.
pub fn pool(isa: Isa, rows: Rows<'_>, bags: &Bags<'_>, pooling: Pooling, out: Output<'_>) {
    pool_with(isa, LookAhead::of(rows), rows, bags, pooling, out);
}

/// [`pool`] with rows requested in the given way.
///
/// # Panics
///
/// As [`pool`].
pub fn pool_with(isa: Isa, ahead: LookAhead, rows: Rows<'_>, bags: &Bags<'_>, pooling: Pooling, out: Output<'_>) {
    assert!(Isa::available().contains(&isa), "this machine has no {isa}");
    check(rows, bags, pooling, &out);
    simd::pool(isa, ahead, rows, bags, pooling, out);
}

/// The preconditions that all kernels share. They are invariants of the tables above, so breaking one is a panic.
fn check(rows: Rows<'_>, bags: &Bags<'_>, pooling: Pooling, out: &Output<'_>) {
    assert_eq!(rows.len(), bags.rows(), "bags of another table");
    assert_eq!(Some(out.len()), bags.len().checked_mul(rows.dim()), "an output of another size");
    assert!(pooling == Pooling::Sum || bags.weights().is_none(), "a mean of weighted rows");
}
