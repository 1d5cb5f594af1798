//! Reductions of elements, in rank order.

use std::str::FromStr;

use half::{bf16, f16};

use crate::Memory;

/// What the elements of a tensor are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Dtype {
    Bool,
    U8,
    I8,
    I16,
    I32,
    I64,
    F16,
    Bf16,
    F32,
    F64,
}

impl Dtype {
    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        match self {
            Dtype::Bool | Dtype::U8 | Dtype::I8 => 1,
            Dtype::I16 | Dtype::F16 | Dtype::Bf16 => 2,
            Dtype::I32 | Dtype::F32 => 4,
            Dtype::I64 | Dtype::F64 => 8,
        }
    }
}

impl FromStr for Dtype {
    type Err = String;

    /// By PyTorch's names, without `torch.`.
    fn from_str(name: &str) -> Result<Self, String> {
        Ok(match name {
            "bool" => Dtype::Bool,
            "uint8" => Dtype::U8,
            "int8" => Dtype::I8,
            "int16" => Dtype::I16,
            "int32" => Dtype::I32,
            "int64" => Dtype::I64,
            "float16" => Dtype::F16,
            "bfloat16" => Dtype::Bf16,
            "float32" => Dtype::F32,
            "float64" => Dtype::F64,
            other => return Err(format!("elements of dtype {other} cannot be reduced")),
        })
    }
}

/// How elements of several ranks become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Reduction {
    Sum,
    Product,
    Min,
    Max,
    /// The sum divided by the number of ranks; of floating-point elements only.
    Average,
    And,
    Or,
    Xor,
}

impl FromStr for Reduction {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Ok(match name {
            "sum" => Reduction::Sum,
            "product" => Reduction::Product,
            "min" => Reduction::Min,
            "max" => Reduction::Max,
            "avg" => Reduction::Average,
            "band" => Reduction::And,
            "bor" => Reduction::Or,
            "bxor" => Reduction::Xor,
            other => return Err(format!("there is no reduction {other}")),
        })
    }
}

/// A reduction of elements of a type, known to make sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Reducer {
    reduction: Reduction,
    dtype: Dtype,
}

impl Reducer {
    /// The reduction for that type.
    ///
    /// # Errors
    ///
    /// What does not make sense: bits of floating-point elements, and averages of others.
    pub fn new(reduction: Reduction, dtype: Dtype) -> Result<Self, String> {
        let floats = matches!(dtype, Dtype::F16 | Dtype::Bf16 | Dtype::F32 | Dtype::F64);
        match reduction {
            Reduction::Average if !floats => Err(format!("the average of elements of {dtype:?} is not one of them")),
            Reduction::And | Reduction::Or | Reduction::Xor if floats => {
                Err(format!("elements of {dtype:?} are not reduced bit by bit"))
            }
            _ => Ok(Reducer { reduction, dtype }),
        }
    }

    /// Bytes of an element.
    pub fn element_bytes(&self) -> usize {
        self.dtype.bytes()
    }

    /// A number for what is reduced how, to be compared between ranks.
    pub(crate) fn code(&self) -> u16 {
        self.reduction as u16 | (self.dtype as u16) << 8
    }

    /// Reduces the elements of `ranks`, from the first to the last, into `out`, which may be one of them. Floating-point
    /// elements of 16 bits are added up in 32 and rounded once.
    ///
    /// # Panics
    ///
    /// If they are not as long as `out`.
    pub fn reduce(&self, ranks: &[Memory], out: &Memory) {
        match self.dtype {
            Dtype::Bool => integers::<Truth>(self.reduction, ranks, out),
            Dtype::U8 => integers::<u8>(self.reduction, ranks, out),
            Dtype::I8 => integers::<i8>(self.reduction, ranks, out),
            Dtype::I16 => integers::<i16>(self.reduction, ranks, out),
            Dtype::I32 => integers::<i32>(self.reduction, ranks, out),
            Dtype::I64 => integers::<i64>(self.reduction, ranks, out),
            Dtype::F16 => floats::<f16>(self.reduction, ranks, out),
            Dtype::Bf16 => floats::<bf16>(self.reduction, ranks, out),
            Dtype::F32 => floats::<f32>(self.reduction, ranks, out),
            Dtype::F64 => floats::<f64>(self.reduction, ranks, out),
        }
    }
}

/// An element, and what it is reduced as.
trait Element: Copy {
    type Sum: Copy + Default;
    const BYTES: usize;
    /// It is true or not, so that a sum is whether any is.
    const TRUTH: bool = false;

    fn load(bytes: &[u8]) -> Self::Sum;
    fn store(sum: Self::Sum, bytes: &mut [u8]);
}

macro_rules! element {
    ($type:ty, $sum:ty, $load:expr, $store:expr) => {
        impl Element for $type {
            type Sum = $sum;
            const BYTES: usize = size_of::<$type>();

            #[inline(always)]
            fn load(bytes: &[u8]) -> $sum {
                $load(<$type>::from_ne_bytes(bytes.try_into().expect("bytes of one element")))
            }

            #[inline(always)]
            fn store(sum: $sum, bytes: &mut [u8]) {
                let element: $type = $store(sum);
                bytes.copy_from_slice(&element.to_ne_bytes());
            }
        }
    };
}

element!(u8, u8, |it| it, |it| it);
element!(i8, i8, |it| it, |it| it);
element!(i16, i16, |it| it, |it| it);
element!(i32, i32, |it| it, |it| it);
element!(i64, i64, |it| it, |it| it);
element!(f32, f32, |it| it, |it| it);
element!(f64, f64, |it| it, |it| it);
element!(f16, f32, f16::to_f32, f16::from_f32);
element!(bf16, f32, bf16::to_f32, bf16::from_f32);

/// A byte that is true if it is not zero.
#[derive(Clone, Copy)]
struct Truth;

impl Element for Truth {
    type Sum = u8;
    const BYTES: usize = 1;
    const TRUTH: bool = true;

    #[inline(always)]
    fn load(bytes: &[u8]) -> u8 {
        u8::from(bytes[0] != 0)
    }

    #[inline(always)]
    fn store(sum: u8, bytes: &mut [u8]) {
        bytes[0] = u8::from(sum != 0);
    }
}

/// Elements that fit the first cache.
const BLOCK: usize = 1024;

fn fold<T: Element>(
    ranks: &[Memory],
    out: &Memory,
    add: impl Fn(T::Sum, T::Sum) -> T::Sum,
    end: impl Fn(T::Sum) -> T::Sum,
) {
    assert!(ranks.iter().all(|memory| memory.len() == out.len()), "memory of different lengths");
    let mut sums = [T::Sum::default(); BLOCK];
    let mut bytes = [0u8; BLOCK * 8];
    let step = BLOCK * T::BYTES;
    for at in (0..out.len()).step_by(step) {
        let bytes = &mut bytes[..step.min(out.len() - at)];
        for (rank, memory) in ranks.iter().enumerate() {
            memory.read(at, bytes);
            let elements = sums.iter_mut().zip(bytes.chunks_exact(T::BYTES));
            if rank == 0 {
                elements.for_each(|(sum, element)| *sum = T::load(element));
            } else {
                elements.for_each(|(sum, element)| *sum = add(*sum, T::load(element)));
            }
        }
        for (sum, element) in sums.iter().zip(bytes.chunks_exact_mut(T::BYTES)) {
            T::store(end(*sum), element);
        }
        out.write(at, bytes);
    }
}

/// What integers can do; sums wrap, as PyTorch's do.
trait Integer: Copy + Ord {
    fn plus(self, other: Self) -> Self;
    fn times(self, other: Self) -> Self;
    fn and(self, other: Self) -> Self;
    fn or(self, other: Self) -> Self;
    fn xor(self, other: Self) -> Self;
}

macro_rules! integer {
    ($($type:ty),+) => {$(
        impl Integer for $type {
            #[inline(always)]
            fn plus(self, other: Self) -> Self { self.wrapping_add(other) }
            #[inline(always)]
            fn times(self, other: Self) -> Self { self.wrapping_mul(other) }
            #[inline(always)]
            fn and(self, other: Self) -> Self { self & other }
            #[inline(always)]
            fn or(self, other: Self) -> Self { self | other }
            #[inline(always)]
            fn xor(self, other: Self) -> Self { self ^ other }
        }
    )+};
}

integer!(u8, i8, i16, i32, i64);

fn integers<T: Element<Sum: Integer>>(reduction: Reduction, ranks: &[Memory], out: &Memory) {
    let same = |sum| sum;
    match reduction {
        // Counted, 256 of them would be none.
        Reduction::Sum if T::TRUTH => fold::<T>(ranks, out, T::Sum::or, same),
        Reduction::Sum | Reduction::Average => fold::<T>(ranks, out, T::Sum::plus, same),
        Reduction::Product => fold::<T>(ranks, out, T::Sum::times, same),
        Reduction::Min => fold::<T>(ranks, out, Ord::min, same),
        Reduction::Max => fold::<T>(ranks, out, Ord::max, same),
        Reduction::And => fold::<T>(ranks, out, T::Sum::and, same),
        Reduction::Or => fold::<T>(ranks, out, T::Sum::or, same),
        Reduction::Xor => fold::<T>(ranks, out, T::Sum::xor, same),
    }
}

/// What floating-point numbers can do; a smallest or largest of something that is not a number is not a number.
trait Float: Copy {
    fn plus(self, other: Self) -> Self;
    fn times(self, other: Self) -> Self;
    fn smaller(self, other: Self) -> Self;
    fn larger(self, other: Self) -> Self;
    fn over(self, ranks: usize) -> Self;
}

macro_rules! float {
    ($($type:ty),+) => {$(
        impl Float for $type {
            #[inline(always)]
            fn plus(self, other: Self) -> Self { self + other }
            #[inline(always)]
            fn times(self, other: Self) -> Self { self * other }
            #[inline(always)]
            fn smaller(self, other: Self) -> Self { if self.is_nan() || self < other { self } else { other } }
            #[inline(always)]
            fn larger(self, other: Self) -> Self { if self.is_nan() || self > other { self } else { other } }
            #[inline(always)]
            fn over(self, ranks: usize) -> Self { self / ranks as $type }
        }
    )+};
}

float!(f32, f64);

fn floats<T: Element<Sum: Float>>(reduction: Reduction, ranks: &[Memory], out: &Memory) {
    let same = |sum| sum;
    match reduction {
        Reduction::Sum => fold::<T>(ranks, out, T::Sum::plus, same),
        Reduction::Average => fold::<T>(ranks, out, T::Sum::plus, |sum| sum.over(ranks.len())),
        Reduction::Product => fold::<T>(ranks, out, T::Sum::times, same),
        Reduction::Min => fold::<T>(ranks, out, T::Sum::smaller, same),
        Reduction::Max => fold::<T>(ranks, out, T::Sum::larger, same),
        Reduction::And | Reduction::Or | Reduction::Xor => unreachable!("refused by `Reducer::new`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reduced(reduction: &str, dtype: &str, ranks: &[Vec<u8>]) -> Vec<u8> {
        let reducer = Reducer::new(reduction.parse().unwrap(), dtype.parse().unwrap()).unwrap();
        let ranks: Vec<Memory> = ranks.iter().map(|bytes| Memory::of(bytes)).collect();
        let out = Memory::zeroed(ranks[0].len());
        reducer.reduce(&ranks, &out);
        out.to_vec()
    }

    #[test]
    fn every_reduction_of_integers() {
        let ranks = [vec![200u8, 0b1100, 3], vec![100, 0b1010, 5], vec![1, 0b1111, 2]];
        for (reduction, expected) in [
            ("sum", [45, 37, 10]),
            ("product", [32, 8, 30]),
            ("min", [1, 10, 2]),
            ("max", [200, 15, 5]),
            ("band", [0, 8, 0]),
            ("bor", [237, 15, 7]),
            ("bxor", [173, 9, 4]),
        ] {
            assert_eq!(reduced(reduction, "uint8", &ranks), expected, "{reduction}");
        }
        let truths = [vec![1u8, 0, 1], vec![1, 0, 0], vec![7, 0, 1]];
        assert_eq!(reduced("sum", "bool", &truths), [1, 0, 1]);
        assert_eq!(reduced("min", "bool", &truths), [1, 0, 0]);
        // More ranks than a byte counts.
        assert_eq!(reduced("sum", "bool", &vec![vec![1u8]; 256]), [1]);
    }

    #[test]
    fn halves_are_added_in_32_bits_and_rounded_once() {
        // 2048 + 1 is 2048 in 16 bits, so adding one by one would stay there.
        let ranks: Vec<Vec<u8>> =
            [2048.0, 1.0, 1.0, 1.0, 1.0].iter().map(|&it| f16::from_f32(it).to_ne_bytes().to_vec()).collect();
        assert_eq!(reduced("sum", "float16", &ranks), f16::from_f32(2052.0).to_ne_bytes());
        let ranks: Vec<Vec<u8>> = [1.0, 2.0, 6.0].iter().map(|&it| bf16::from_f32(it).to_ne_bytes().to_vec()).collect();
        assert_eq!(reduced("avg", "bfloat16", &ranks), bf16::from_f32(3.0).to_ne_bytes());
    }

    #[test]
    fn what_is_not_a_number_stays_so_and_order_is_that_of_the_ranks() {
        let of = |value: f32| value.to_ne_bytes().to_vec();
        for reduction in ["min", "max", "sum"] {
            for ranks in [[f32::NAN, 1.0, 2.0], [1.0, f32::NAN, 2.0], [1.0, 2.0, f32::NAN]] {
                let out = reduced(reduction, "float32", &ranks.map(of));
                assert!(f32::from_ne_bytes(out.try_into().unwrap()).is_nan(), "{reduction} of {ranks:?}");
            }
        }
        let ranks = [1e8f32, 1.0, -1e8];
        assert_eq!(reduced("sum", "float32", &ranks.map(of)), ((1e8f32 + 1.0) - 1e8).to_ne_bytes());
    }

    #[test]
    fn what_makes_no_sense_is_refused_and_more_than_a_block_is_reduced() {
        assert!(Reducer::new(Reduction::Average, Dtype::I32).unwrap_err().contains("average"));
        assert!(Reducer::new(Reduction::Xor, Dtype::F32).is_err());
        assert!("complex64".parse::<Dtype>().unwrap_err().contains("complex64"));
        let numbers: Vec<i32> = (0..2 * BLOCK as i32 + 5).collect();
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_ne_bytes()).collect();
        let out = reduced("sum", "int32", &[bytes.clone(), bytes]);
        assert!(out.chunks_exact(4).zip(&numbers).all(|(sum, number)| sum == (2 * number).to_ne_bytes()));
    }
}
