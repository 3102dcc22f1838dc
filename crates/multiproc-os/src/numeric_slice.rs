//! Vectors and slices of plain numbers, recognised behind a generic type and copied as bytes: a
//! vector of a billion bytes is then one copy and not a billion calls.
//!
//! [`TypeId`] is for `'static` types only, so code that is generic over a value that may hold
//! references can't ask whether its type is `Vec<u8>`. This module compares the id of the type with
//! its lifetimes erased, as the crates `typeid` and `erased-serde` do.

use std::any::TypeId;
use std::marker::PhantomData;
use std::mem::{self, ManuallyDrop};

use crate::prefault;

/// A type of number. The discriminants travel between processes of one program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Kind {
    U8 = 1,
    I8,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    U128,
    I128,
    F32,
    F64,
}

impl Kind {
    const ALL: [Kind; 12] = [
        Kind::U8,
        Kind::I8,
        Kind::U16,
        Kind::I16,
        Kind::U32,
        Kind::I32,
        Kind::U64,
        Kind::I64,
        Kind::U128,
        Kind::I128,
        Kind::F32,
        Kind::F64,
    ];

    /// Returns the kind with this discriminant.
    pub fn from_u8(value: u8) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| *kind as u8 == value)
    }

    /// The size of one number, in bytes.
    pub fn width(self) -> usize {
        match self {
            Kind::U8 | Kind::I8 => 1,
            Kind::U16 | Kind::I16 => 2,
            Kind::U32 | Kind::I32 | Kind::F32 => 4,
            Kind::U64 | Kind::I64 | Kind::F64 => 8,
            Kind::U128 | Kind::I128 => 16,
        }
    }
}

/// Calls a macro with each kind and the types that it stands for.
macro_rules! for_each_number {
    ($callback:ident) => {
        $callback! {
            U8 u8; I8 i8; U16 u16; I16 i16; U32 u32; I32 i32; U64 u64; I64 i64; U128 u128; I128 i128; F32 f32; F64 f64;
            U64 usize; I64 isize;
        }
    };
}

/// Returns the kind and the bytes in memory of `list`, if `I` is `&[N]` or `&Vec<N>` for a plain
/// number type `N`.
pub fn bytes_of<I>(list: &I) -> Option<(Kind, &[u8])> {
    let id = id_of::<I>();
    macro_rules! try_each {
        ($($kind:ident $number:ty;)*) => {
            $(
                let numbers: Option<&[$number]> = if id == TypeId::of::<&'static [$number]>() {
                    // SAFETY: `I` is `&[$number]`, with a lifetime that outlasts the borrow of
                    // `list`.
                    Some(unsafe { *(&raw const *list).cast::<&[$number]>() })
                } else if id == TypeId::of::<&'static Vec<$number>>() {
                    // SAFETY: as above, `I` is `&Vec<$number>`.
                    Some(unsafe { *(&raw const *list).cast::<&Vec<$number>>() })
                } else {
                    None
                };
                if let Some(numbers) = numbers {
                    // SAFETY: numbers have no padding, so all these bytes are initialised.
                    let bytes = unsafe { std::slice::from_raw_parts(numbers.as_ptr().cast(), mem::size_of_val(numbers)) };
                    return Some((Kind::$kind, bytes));
                }
            )*
        };
    }
    for_each_number!(try_each);
    None
}

/// Makes a `V` of `bytes`, numbers of the kind `kind` as [`bytes_of`] returned them, if `V` is a
/// `Vec` of such numbers. Bytes at the end that don't make up a whole number are left out.
pub fn vec_of<V>(kind: Kind, bytes: &[u8]) -> Option<V> {
    let id = id_of::<V>();
    macro_rules! try_each {
        ($($kind:ident $number:ty;)*) => {
            $(
                if kind == Kind::$kind && id == TypeId::of::<Vec<$number>>() {
                    let len = bytes.len() / size_of::<$number>();
                    let mut vec: Vec<$number> = Vec::with_capacity(len);
                    if bytes.len() >= POPULATED {
                        // One page fault per page would cost more than the copy.
                        prefault::populate(vec.as_ptr() as usize, bytes.len(), rustix::mm::Advice::LinuxPopulateWrite);
                    }
                    // SAFETY: the vector has room for `len` numbers and doesn't overlap `bytes`,
                    // and any bytes are valid numbers.
                    unsafe {
                        let whole = len * size_of::<$number>();
                        std::ptr::copy_nonoverlapping(bytes.as_ptr(), vec.as_mut_ptr().cast::<u8>(), whole);
                        vec.set_len(len);
                    }
                    let vec = ManuallyDrop::new(vec);
                    // SAFETY: `V` is `Vec<$number>`, and the original is not used again.
                    return Some(unsafe { mem::transmute_copy::<ManuallyDrop<Vec<$number>>, V>(&vec) });
                }
            )*
        };
    }
    for_each_number!(try_each);
    None
}

/// Copies `bytes`. Takes half the time of `to_vec` for large slices, since all pages are populated
/// with one call.
pub fn copy(bytes: &[u8]) -> Vec<u8> {
    vec_of(Kind::U8, bytes).expect("u8 is a number type")
}

/// Minimum size, in bytes, for which pages are populated ahead: that call costs as much as a few
/// page faults.
const POPULATED: usize = 1 << 20;

/// The id of a type with its lifetimes erased: types that differ only in lifetimes have the same
/// id.
fn id_of<T: ?Sized>() -> TypeId {
    trait Erased {
        fn id(&self) -> TypeId
        where
            Self: 'static;
    }
    impl<T: ?Sized> Erased for PhantomData<T> {
        fn id(&self) -> TypeId
        where
            Self: 'static,
        {
            TypeId::of::<T>()
        }
    }
    let here = PhantomData::<T>;
    let erased: &dyn Erased = &here;
    // SAFETY: only the lifetime bound of the object's type changes. The method called depends on
    // lifetimes no more than any generated code does, and touches no `T`.
    unsafe { mem::transmute::<&dyn Erased, &(dyn Erased + 'static)>(erased) }.id()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        macro_rules! check {
            ($($kind:ident $number:ty;)*) => {
                $({
                    let list: Vec<$number> = vec![0 as $number, 1 as $number, <$number>::MAX, <$number>::MIN];
                    let whole = &list;
                    let (kind, bytes) = bytes_of(&whole).unwrap();
                    assert_eq!((kind, bytes.len()), (Kind::$kind, 4 * kind.width()));
                    assert_eq!(bytes_of(&&list[..]).unwrap(), (kind, bytes));
                    assert_eq!(vec_of::<Vec<$number>>(kind, bytes).unwrap(), list);
                    assert_eq!(Kind::from_u8(kind as u8), Some(kind));
                    assert_eq!(vec_of::<Vec<$number>>(kind, &bytes[1..]).unwrap().len(), 3);
                })*
            };
        }
        for_each_number!(check);
    }

    #[test]
    fn other_types() {
        struct Wrapped(#[allow(dead_code)] u8);
        assert!(bytes_of(&&[true, false][..]).is_none());
        assert!(bytes_of(&&['a'][..]).is_none());
        assert!(bytes_of(&&[Wrapped(1)][..]).is_none());
        assert!(bytes_of(&[1_u8, 2]).is_none());
        assert!(bytes_of(&std::collections::VecDeque::from([1_u8])).is_none());
        assert!(bytes_of(&&[&1_u8][..]).is_none());
        assert!(vec_of::<Vec<u16>>(Kind::I16, &[0; 4]).is_none());
        assert!(vec_of::<Box<[u8]>>(Kind::U8, &[0; 4]).is_none());
        assert!(vec_of::<Vec<bool>>(Kind::U8, &[0; 4]).is_none());
        assert!((Kind::from_u8(0), Kind::from_u8(13)) == (None, None));
    }

    #[test]
    #[cfg_attr(miri, ignore = "copies megabytes, and populates pages")]
    fn large() {
        for len in [POPULATED - 1, POPULATED, POPULATED + 4097, 3 * POPULATED + 1] {
            let bytes: Vec<u8> = (0..len).map(|i| (i * 7 % 251) as u8).collect();
            assert!(copy(&bytes) == bytes);
        }
        assert_eq!(copy(&[]), []);
    }
}
