//! Good inputs of our own, for who has no others: scenarios of the library with their objects.

use std::path::PathBuf;

use super::Input;
use crate::below::named;

/// A scenario with both of its objects.
macro_rules! play {
    ($folder:literal, $name:literal) => {
        (
            $name,
            [
                include_bytes!(concat!("../../../scenarios/library/", $folder, "/", $name, ".ron")),
                include_bytes!(concat!(
                    "../../../scenarios/library/",
                    $folder,
                    "/",
                    $name,
                    ".el.bpf.o"
                )),
                include_bytes!(concat!(
                    "../../../scenarios/library/",
                    $folder,
                    "/",
                    $name,
                    ".eb.bpf.o"
                )),
            ],
        )
    };
}

/// Name; scenario, little-endian object, big-endian object.
const PLAYS: &[(&str, [&[u8]; 3])] = &[
    play!("basics", "drop_echo"),
    play!("basics", "legacy_loads"),
    play!("testrun", "runs"),
    play!("export", "ringbuf"),
    play!("counters", "percpu_queues"),
    play!("timers", "ageing"),
    play!("mapinmap", "reconfigure"),
    play!("memory", "timer_delete"),
];
const ENDINGS: [&str; 3] = ["ron", "el.bpf.o", "eb.bpf.o"];

/// A folder with them, which is gone when this is.
#[derive(Debug)]
pub struct Own {
    dir: PathBuf,
}

impl Own {
    /// Writes them to a folder of this process.
    ///
    /// # Errors
    /// There cannot be such a folder.
    pub fn new() -> std::io::Result<Own> {
        use std::sync::atomic::{AtomicU32, Ordering};
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let (pid, n) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let own = Own { dir: std::env::temp_dir().join(format!("orrery-fuzz-{pid}-{n}")) };
        std::fs::create_dir_all(&own.dir)?;
        for (name, files) in PLAYS {
            for (bytes, ending) in files.iter().zip(ENDINGS) {
                std::fs::write(own.dir.join(format!("{name}.{ending}")), bytes)?;
            }
        }
        Ok(own)
    }

    /// The scenarios.
    #[must_use]
    pub fn scenarios(&self) -> Vec<Input> {
        PLAYS.iter().map(|(name, files)| self.input(name, ENDINGS[0], files[0])).collect()
    }

    /// The objects, in both byte orders.
    #[must_use]
    pub fn objects(&self) -> Vec<Input> {
        let both = |(name, files): &(&str, [&[u8]; 3])| {
            [1, 2].map(|n| self.input(name, ENDINGS[n], files[n]))
        };
        PLAYS.iter().flat_map(both).collect()
    }

    fn input(&self, name: &str, ending: &str, bytes: &[u8]) -> Input {
        let dir = self.dir.clone();
        Input { name: format!("{name}.{ending}"), bytes: bytes.to_vec(), dir }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        // What is left is in the folder for such things.
        let _gone = std::fs::remove_dir_all(&self.dir);
    }
}

/// Files with an ending, in folders and folders in them, in order.
///
/// # Errors
/// A folder or a file cannot be read.
pub fn files(paths: &[PathBuf], endings: &[&str]) -> Result<Vec<Input>, String> {
    let read = |path: PathBuf| Input::read(&path).map_err(|e| format!("{}: {e}", path.display()));
    named(paths, endings)?.into_iter().map(read).collect()
}
