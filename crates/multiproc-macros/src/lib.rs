//! The attributes `#[multiproc::main]` and `#[multiproc::test]`, which the crate `multiproc`
//! re-exports and documents.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(missing_docs)]

use proc_macro::TokenStream;
use proc_macro2::TokenStream as TokenStream2;
use quote::quote;
use syn::{Attribute, ItemFn, parse_macro_input, parse_quote};

/// Makes `main` the entry point of child processes too: a child runs its target in place of the
/// body. When the body ends, so do this process's children: daemons are terminated, others are
/// waited for.
///
/// ```
/// #[multiproc::main]
/// fn main() -> multiproc::Result<()> {
///     multiproc::Process::new(|| println!("in a child"), ()).start()?;
///     Ok(())
/// }
/// ```
///
/// It can be combined with other attributes for `main`, such as `#[tokio::main]`, in either order:
/// a child runs its target before any runtime is built.
#[proc_macro_attribute]
pub fn main(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let function = parse_macro_input!(item as ItemFn);
    no_arguments(&arguments, "main").unwrap_or_else(|| expand_main(function)).into()
}

/// Marks a test that may start processes; replaces `#[test]`, under `cargo test` and
/// `cargo nextest`.
///
/// ```
/// #[multiproc::test]
/// fn adds() {
///     let child = multiproc::Process::new(|a: u32, b: u32| a + b, (1, 2)).start().unwrap();
///     assert_eq!(child.join().unwrap(), 3);
/// }
/// # fn main() {}
/// ```
///
/// It can be combined with other attributes for tests, such as `#[tokio::test]`, in either order.
///
/// What a child prints goes to the test binary's stdout: the harness captures only what the test
/// itself prints. Write the attribute with its path: after `use multiproc::*`, a plain `#[test]` is
/// ambiguous.
///
/// The harness owns the `main` of a test binary, so the entry point of child processes is a
/// function that the loader calls before `main`. One such test in a binary is enough for all of its
/// tests.
///
/// A test ends the processes that it leaves behind, whether it passes, fails or panics. When the
/// test has ended, each process that was started on its thread, is still running and has no
/// [`Child`](../multiproc/struct.Child.html) or other handle left gets SIGTERM, and SIGKILL after
/// the grace period. Processes that other threads of a test have started, processes with a handle
/// in a static, and processes left behind by `#[test]` functions are ended in the same way when the
/// whole test binary ends; it doesn't wait for them to finish on their own. Only a process that
/// [outlives its parent](../multiproc/struct.Process.html#method.outlive_parent) is left alone.
///
/// ```
/// #[multiproc::test]
/// fn answers() {
///     let server = multiproc::Process::new(|| loop { std::thread::park() }, ()).start().unwrap();
///     assert!(server.is_alive(), "a server that a failed assertion leaves behind is ended too");
/// }
/// # fn main() {}
/// ```
#[proc_macro_attribute]
pub fn test(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let function = parse_macro_input!(item as ItemFn);
    no_arguments(&arguments, "test").unwrap_or_else(|| expand_test(function)).into()
}

fn no_arguments(arguments: &TokenStream, name: &str) -> Option<TokenStream2> {
    (!arguments.is_empty()).then(|| {
        let message = format!("#[multiproc::{name}] takes no arguments");
        quote! { compile_error!(#message); }
    })
}

fn expand_main(function: ItemFn) -> TokenStream2 {
    if !function.sig.inputs.is_empty() {
        return syn::Error::new_spanned(&function.sig.inputs, "main takes no arguments").to_compile_error();
    }
    // The remaining attributes, such as that of an async runtime, belong to the body.
    let (docs, others): (Vec<Attribute>, Vec<Attribute>) =
        function.attrs.into_iter().partition(|attribute| attribute.path().is_ident("doc"));
    if function.sig.asyncness.is_some() && others.is_empty() {
        return syn::Error::new_spanned(
            function.sig.asyncness,
            "an async main needs a runtime: add its attribute, such as #[tokio::main], below this one",
        )
        .to_compile_error();
    }
    let (visibility, name, signature, block) = (function.vis, &function.sig.ident, &function.sig, function.block);
    let output = &function.sig.output;
    // In another function, code of `main` has run before.
    let is_first = *name == "main";
    quote! {
        #(#docs)*
        #visibility fn #name() #output {
            let __multiproc_main = ::multiproc::__private::Main::begin(#is_first);
            #(#others)*
            #signature #block
            #name()
        }
    }
}

fn expand_test(mut function: ItemFn) -> TokenStream2 {
    // `#[tokio::test]` below this attribute, or the `#[test]` that it expanded to, makes this a
    // test already.
    let is_test = function.attrs.iter().any(|attribute| {
        attribute.path().segments.last().is_some_and(|segment| segment.ident.to_string().ends_with("test"))
    });
    let test = (!is_test).then(|| quote! { #[::core::prelude::v1::test] });
    if function.sig.asyncness.is_some() && !is_test {
        return syn::Error::new_spanned(
            function.sig.asyncness,
            "an async test needs a runtime: add its attribute, such as #[tokio::test], below this one",
        )
        .to_compile_error();
    }
    // Declared before any variable of the test, so it is dropped after them: a process with its
    // `Child` in a variable has lost that handle by then.
    let block = &function.block;
    *function.block = parse_quote!({
        let __multiproc_test = ::multiproc::__private::Test::begin();
        #block
    });
    quote! {
        #test
        #function

        // Without a harness there are no tests, and nothing runs before `main`.
        #[cfg(test)]
        const _: () = {
            #[used]
            #[unsafe(link_section = ".init_array")]
            static BEFORE_HARNESS: extern "C" fn() = ::multiproc::__private::before_harness;
        };
    }
}
