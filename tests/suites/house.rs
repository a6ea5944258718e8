//! The house stands as the design draws it: crate edges and style.

#[test]
fn crates_depend_one_way() {
    assert_eq!(tests::house::violations().unwrap(), Vec::<String>::new());
}

#[test]
fn tidy() {
    let found = tests::tidy::findings(&tests::root()).unwrap();
    assert!(found.is_empty(), "{} findings:\n{}", found.len(), found.join("\n"));
}

#[test]
fn everything_is_used() {
    assert_eq!(tests::used::unused(&tests::root()).unwrap(), Vec::<String>::new());
}

#[test]
fn dependencies_have_reasons() {
    assert_eq!(tests::used::without_reason(&tests::root()).unwrap(), Vec::<String>::new());
}
