//! What README.md shows of the program's output is what the program prints.

use std::process::Command;

/// The block of README.md between two markers.
fn block(name: &str) -> String {
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
    let text = std::fs::read_to_string(readme).unwrap();
    let after = text.split_once(&format!("<!-- {name}:begin -->\n")).expect("the first marker").1;
    after.split_once(&format!("<!-- {name}:end -->")).expect("the second marker").0.to_owned()
}

#[test]
fn features_by_architecture() {
    let mut orrery = Command::new(env!("CARGO_BIN_EXE_orrery"));
    let run = orrery.args(["features", "--markdown"]).output().unwrap();
    assert!(run.status.success());
    assert_eq!(
        block("features"),
        String::from_utf8(run.stdout).unwrap(),
        "paste the output of `orrery features --markdown` between the markers"
    );
}
