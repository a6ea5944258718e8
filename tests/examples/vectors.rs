//! Writes the generated vectors as files that any runner of the public format reads.

use std::path::PathBuf;

fn main() -> std::io::Result<()> {
    let Some(dir) = std::env::args_os().nth(1).map(PathBuf::from) else {
        return Err(std::io::Error::other("the folder to write to is expected"));
    };
    std::fs::create_dir_all(&dir)?;
    for (name, text) in tests::vectors::all() {
        std::fs::write(dir.join(format!("{name}.data")), text)?;
    }
    Ok(())
}
