//! [`Arguments`]: which tuples can be the arguments of a target, and what the compiler says about
//! others.

use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::run::{Call, Run};
use crate::sendable::Sendable;
use crate::spec::target::{Target, for_each_arity};

/// The arguments of a target: a tuple of 0 to 8 [`Sendable`] values.
#[diagnostic::on_unimplemented(
    message = "the arguments `{Self}` can't be sent to another process",
    label = "not a tuple of types with `serde::Serialize` and `serde::Deserialize`",
    note = "a struct or an enum: write `#[derive(serde::Serialize, serde::Deserialize)]` above it",
    note = "a reference or a `&str`: send the value itself, a `String`",
    note = "an open file or a socket: send `multiproc::Handle::new(file)`",
    note = "`Arc<Mutex<_>>`, an atomic, a channel: memory isn't shared between processes; send a clone of a `multiproc::sync::Mutex`, \
            `multiproc::Value`, `multiproc::Array` or `multiproc::Queue`"
)]
pub trait Arguments: Serialize + DeserializeOwned {
    /// A call of a function with these arguments: [`Call<F, Self>`](Call). Its methods are reached
    /// through this associated type, so that for arguments that can't be sent the compiler reports
    /// only that, and not a missing method of a process.
    type Call<F: Target<Self>>: Run<Output = F::Output>;

    /// Converts the call to the associated type, which is the same type.
    #[doc(hidden)]
    fn into_call<F: Target<Self>>(call: Call<F, Self>) -> Self::Call<F>;
}

/// A type that is not the type of any argument.
#[doc(hidden)]
#[derive(Debug)]
pub enum Nothing {}

/// Implemented for the argument type [`Nothing`] only.
#[doc(hidden)]
pub trait IsNothing {}

#[doc(hidden)]
#[derive(Debug)]
pub struct Argument<T>(PhantomData<T>);

impl IsNothing for Argument<Nothing> {}

macro_rules! arguments {
    ($first:ident $($arg:ident)*) => {
        #[diagnostic::do_not_recommend]
        impl<$first: Sendable, $($arg: Sendable),*> Arguments for ($first, $($arg,)*) {
            type Call<F: Target<Self>> = Call<F, Self>;

            fn into_call<F: Target<Self>>(call: Call<F, Self>) -> Call<F, Self> {
                call
            }
        }

        // Applies to no type. If there were only one impl, the compiler would choose it even if its
        // bounds fail, continue with the type `Call`, and report a missing method for each call of
        // one. With two impls it chooses none if neither fits, and reports the reason once.
        #[diagnostic::do_not_recommend]
        impl<$first, $($arg),*> Arguments for ($first, $($arg,)*)
        where
            Argument<$first>: IsNothing,
            Self: Arguments,
        {
            type Call<F: Target<Self>> = <Self as Arguments>::Call<F>;

            fn into_call<F: Target<Self>>(call: Call<F, Self>) -> Self::Call<F> {
                <Self as Arguments>::into_call(call)
            }
        }
    };
}

for_each_arity!(arguments);

#[diagnostic::do_not_recommend]
impl Arguments for () {
    type Call<F: Target<()>> = Call<F, ()>;

    fn into_call<F: Target<()>>(call: Call<F, ()>) -> Call<F, ()> {
        call
    }
}
