//! What must not compile, and the errors it causes. The expected texts are those of the compiler
//! that CI uses; `TRYBUILD=overwrite` renews them.

/// What `cargo check` finds: trybuild runs it unless there is a program that must compile.
#[test]
fn check() {
    let cases = trybuild::TestCases::new();
    // Captures of targets, unless they are `Copy`.
    cases.compile_fail("tests/ui/captures_a_vec.rs");
    cases.compile_fail("tests/ui/captures_by_reference.rs");
    cases.compile_fail("tests/ui/captures_self.rs");
    cases.compile_fail("tests/ui/captures_something_that_is_dropped.rs");
    // Arguments and results.
    cases.compile_fail("tests/ui/argument_that_is_a_file.rs");
    // A reference differs from a serde type in its lifetime alone, which no attribute of a trait
    // can describe.
    cases.compile_fail("tests/ui/argument_that_is_a_str.rs");
    cases.compile_fail("tests/ui/argument_that_is_an_arc_mutex.rs");
    cases.compile_fail("tests/ui/argument_that_is_no_serde_type.rs");
    cases.compile_fail("tests/ui/argument_without_serde.rs");
    cases.compile_fail("tests/ui/wrong_number_of_arguments.rs");
    cases.compile_fail("tests/ui/wrong_type_of_argument.rs");
    cases.compile_fail("tests/ui/target_that_is_async.rs");
    cases.compile_fail("tests/ui/result_that_is_no_serde_type.rs");
    cases.compile_fail("tests/ui/error_that_is_no_serde_type.rs");
    cases.compile_fail("tests/ui/run_without_serde.rs");
    // Objects.
    cases.compile_fail("tests/ui/array_of_bool.rs");
    cases.compile_fail("tests/ui/children_of_different_types.rs");
    cases.compile_fail("tests/ui/item_without_serde.rs");
    // The attributes.
    cases.compile_fail("tests/ui/async_main_without_runtime.rs");
    cases.compile_fail("tests/ui/main_with_arguments.rs");
}

/// What `cargo build` finds, when code is generated: no trait tells a closure that has captured a
/// number from a function.
#[test]
fn build() {
    let cases = trybuild::TestCases::new();
    cases.pass("tests/ui/fine.rs");
    cases.compile_fail("tests/ui/captures_a_number.rs");
    cases.compile_fail("tests/ui/captures_a_static_reference.rs");
}

/// Each of the most common mistakes is one error that says what to write.
#[test]
fn one_error_with_help() {
    for (program, help) in [
        ("captures_a_vec", "pass the value as an argument: `Process::new(|value: T| .., (value,))`"),
        ("captures_something_that_is_dropped", "pass the value as an argument"),
        ("captures_a_number", "pass the value as an argument instead: `Process::new(|value: T| .., (value,))`"),
        ("captures_self", "requires argument type to outlive `'static`"),
        ("argument_that_is_a_file", "send `multiproc::Handle::new(file)`"),
        ("argument_that_is_an_arc_mutex", "send a clone of a `multiproc::sync::Mutex`"),
        ("argument_without_serde", "write `#[derive(serde::Serialize, serde::Deserialize)]`"),
        ("target_that_is_async", "a target is not an `async fn`"),
        ("item_without_serde", "write `#[derive(serde::Serialize, serde::Deserialize)]`"),
        ("result_that_is_no_serde_type", "derive `serde::Serialize` and `serde::Deserialize` for it"),
        ("error_that_is_no_serde_type", "`multiproc::process::outcome::ErrorChain`"),
    ] {
        let path = format!("{}/tests/ui/{program}.stderr", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        assert_eq!(text.lines().filter(|line| line.starts_with("error")).count(), 1, "{text}");
        assert!(text.contains(help), "{text}");
        assert!(!text.contains("open an issue on the rustc repository"), "{text}");
    }
}
