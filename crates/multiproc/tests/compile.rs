//! What must not compile, and what it says. The texts are those of the compiler that CI uses; `TRYBUILD=overwrite` renews them.

#[test]
fn ui() {
    let cases = trybuild::TestCases::new();
    // A program that compiles has trybuild build and not only check: captures are found when code is generated.
    cases.pass("tests/ui/fine.rs");
    cases.compile_fail("tests/ui/captures_by_move.rs");
    cases.compile_fail("tests/ui/captures_by_reference.rs");
    cases.compile_fail("tests/ui/captures_a_static_reference.rs");
    cases.compile_fail("tests/ui/captures_something_that_is_dropped.rs");
    cases.compile_fail("tests/ui/argument_that_is_no_serde_type.rs");
    cases.compile_fail("tests/ui/wrong_number_of_arguments.rs");
    cases.compile_fail("tests/ui/wrong_type_of_argument.rs");
    cases.compile_fail("tests/ui/result_that_is_no_serde_type.rs");
    cases.compile_fail("tests/ui/error_that_is_no_serde_type.rs");
    cases.compile_fail("tests/ui/run_without_serde.rs");
    cases.compile_fail("tests/ui/async_main_without_runtime.rs");
    cases.compile_fail("tests/ui/main_with_arguments.rs");
}
