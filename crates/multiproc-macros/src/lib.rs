//! The attributes of `multiproc`, where they are documented and re-exported: `#[multiproc::main]` and `#[multiproc::test]`.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(missing_docs)]

use proc_macro::TokenStream;
use proc_macro2::TokenStream as TokenStream2;
use quote::quote;
use syn::{Attribute, ItemFn, parse_macro_input, parse_quote};

/// Makes `main` the entry of child processes too: a child turns off to its target before the body begins, and the end of the body ends
/// this process's children (daemons are terminated, others waited for).
///
/// ```
/// #[multiproc::main]
/// fn main() -> multiproc::Result<()> {
///     multiproc::Process::new(|| println!("in a child"), ()).start()?;
///     Ok(())
/// }
/// ```
///
/// It goes with other attributes that make a `main`, such as `#[tokio::main]`, in either order: the child turns off before any runtime
/// is built.
#[proc_macro_attribute]
pub fn main(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let function = parse_macro_input!(item as ItemFn);
    no_arguments(&arguments, "main").unwrap_or_else(|| expand_main(function)).into()
}

/// A test that may start processes; in place of `#[test]`, with `cargo test` and `cargo nextest`.
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
/// It goes with other attributes that make a test, such as `#[tokio::test]`, in either order.
///
/// What a child prints goes to the test binary's stdout: the harness captures only what the test itself prints. Write the attribute with its
/// path: after `use multiproc::*` a plain `#[test]` could mean either.
///
/// The harness owns the `main` of a test binary, so the entry for child processes is a function that the loader calls before it. One such
/// test in a binary is enough for all tests in it.
///
/// A test ends the processes that it leaves behind, whether it passes, fails or panics: when it has
/// ended, those that were started on its thread, that still run and that nothing has a
/// [`Child`](../multiproc/struct.Child.html) or another handle to, get SIGTERM, and SIGKILL after
/// the grace period. What other threads of a test have started, what a static has a handle to, and
/// what `#[test]` functions leave behind is ended in the same way when the whole test binary ends;
/// nothing is waited for there. Only a process that
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
    // What is left of the attributes belongs to the body, an async runtime's `main` above all.
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
    quote! {
        #(#docs)*
        #visibility fn #name() #output {
            let __multiproc_main = ::multiproc::__private::Main::begin();
            #(#others)*
            #signature #block
            #name()
        }
    }
}

fn expand_test(mut function: ItemFn) -> TokenStream2 {
    // `#[tokio::test]` below us, or the `#[test]` that it has expanded to, makes this a test already.
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
    // Declared before whatever the test has, so that it is dropped after that: a process whose
    // `Child` is a variable has lost it then.
    let block = &function.block;
    *function.block = parse_quote!({
        let __multiproc_test = ::multiproc::__private::Test::begin();
        #block
    });
    quote! {
        #test
        #function

        // Where there is no harness there are no tests, and nothing runs before `main`.
        #[cfg(test)]
        const _: () = {
            #[used]
            #[unsafe(link_section = ".init_array")]
            static BEFORE_HARNESS: extern "C" fn() = ::multiproc::__private::before_harness;
        };
    }
}
