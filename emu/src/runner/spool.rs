//! Bytes that may be many and are read once: in memory at first, then in a file without a name,
//! so that neither a long run nor one that is interrupted leaves anything behind.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes beyond which a file is used.
const IN_MEMORY: usize = 4 << 20;

/// Writes first, then is read from the beginning.
#[derive(Debug, Default)]
pub struct Spool {
    folder: PathBuf,
    memory: Vec<u8>,
    file: Option<File>,
}

impl Spool {
    /// A spool that overflows into a folder.
    #[must_use]
    pub fn new(folder: &Path) -> Spool {
        Spool { folder: folder.to_path_buf(), ..Spool::default() }
    }

    /// All that was written.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(mut self) -> io::Result<Box<dyn Read>> {
        let Some(mut file) = self.file.take() else {
            return Ok(Box::new(io::Cursor::new(self.memory)));
        };
        file.write_all(&self.memory)?;
        file.seek(SeekFrom::Start(0))?;
        Ok(Box::new(io::BufReader::with_capacity(1 << 16, file)))
    }
}

impl Write for Spool {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.memory.extend_from_slice(bytes);
        if self.memory.len() > IN_MEMORY {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.file.is_none() {
            self.file = Some(nameless(&self.folder)?);
        }
        if let Some(file) = &mut self.file {
            file.write_all(&self.memory)?;
            self.memory.clear();
        }
        Ok(())
    }
}

/// A file that is gone when it is closed, however the process ends.
fn nameless(folder: &Path) -> io::Result<File> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = folder.join(format!(".orrery-{}-{n}", std::process::id()));
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_no_file_is_left() {
        let folder = std::env::temp_dir().join(format!("orrery-spool-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        for lines in [3u32, 800_000] {
            let mut spool = Spool::new(&folder);
            (0..lines).for_each(|n| writeln!(spool, "line {n}").unwrap());
            assert_eq!(spool.file.is_some(), lines > 3);
            let mut text = String::new();
            spool.read().unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text.lines().count(), lines as usize);
            assert!(text.ends_with(&format!("line {}\n", lines - 1)));
        }
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        fs::remove_dir(&folder).unwrap();
    }
}
