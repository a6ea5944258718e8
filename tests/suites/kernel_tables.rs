//! What 6.18 says of some hundred thousand small programs, and what the verifier says.

use tests::kernel_tables::{Kernel, compare, run};

#[test]
fn the_tables_of_the_kernel() {
    let kernel = Kernel::new();
    let found = run(&kernel);
    let asked: usize = found.asked.values().sum();
    println!("{asked} questions {:?}, {} skipped", found.asked, found.skipped);
    println!("{} rows differ, {} answers are unsupported", found.diffs.len(), found.unsupported);
    assert!(asked > 100_000, "{asked} questions are too few: is the corpus there?");
    let wrong = compare(&found);
    let help = "UPDATE_EXPECT=1 writes the list of differences; each row needs its reason";
    assert!(wrong.is_empty(), "{} findings ({help}):\n{}", wrong.len(), wrong.join("\n"));
}
