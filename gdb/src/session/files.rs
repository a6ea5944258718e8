//! Files that gdb reads through the stub: symbols of the kernel and of the programs, listings,
//! sources. Made when they are asked for, and kept.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::{fs, io};

use crate::{Debuggee, Image, View, symbols};

/// Contents of a file.
pub(super) type Bytes = Arc<[u8]>;

/// What was made so far; one for all sessions over a machine.
#[derive(Debug, Default)]
pub struct Files {
    made: BTreeMap<String, Bytes>,
    /// Folder on disk that gets a copy of what is made.
    copies: Option<PathBuf>,
}

impl Files {
    /// None yet.
    #[must_use]
    pub fn new() -> Files {
        Files::default()
    }

    /// With copies in a folder, for debuggers that want files of their own, and for `perf` and
    /// `objdump`. Sources are where they were.
    ///
    /// # Errors
    /// When there cannot be such a folder.
    pub fn copied_to(folder: PathBuf) -> io::Result<Files> {
        fs::create_dir_all(&folder)?;
        Ok(Files { made: BTreeMap::new(), copies: Some(folder) })
    }

    /// A file by its name.
    pub fn get(&mut self, debuggee: &dyn Debuggee, name: &str) -> Option<Arc<[u8]>> {
        if let Some(bytes) = self.made.get(name) {
            return Some(bytes.clone());
        }
        let bytes = make(debuggee, name).or_else(|| debuggee.source(name))?;
        if let Some(folder) = &self.copies
            && let Some(local) = name.strip_prefix(symbols::FOLDER)
        {
            // A copy that cannot be written is missed by nobody in the session.
            let _ = fs::write(folder.join(local.trim_start_matches('/')), &bytes);
        }
        self.made.insert(name.to_owned(), bytes.clone());
        Some(bytes)
    }

    /// Makes all there are now: the kernel's symbols, and those of each program in both views with
    /// the listing. Their names.
    pub fn make_all(&mut self, debuggee: &dyn Debuggee) -> Vec<String> {
        let programs = debuggee.images();
        let named = programs.iter().flat_map(|i| {
            let views = [View::Source, View::Bpf].map(|v| symbols::file_name(i, v));
            views.into_iter().chain([listing_path(i)])
        });
        let names = [symbols::kernel_file(debuggee.arch())].into_iter().chain(named);
        names.filter(|n| self.get(debuggee, n).is_some()).collect()
    }
}

fn listing_path(image: &Image) -> String {
    format!("{}/{}", symbols::FOLDER, symbols::listing_name(image))
}

fn make(debuggee: &dyn Debuggee, name: &str) -> Option<Bytes> {
    if name == symbols::kernel_file(debuggee.arch()) {
        return Some(symbols::kernel(&debuggee.kernel()).into());
    }
    debuggee.images().iter().find_map(|image| program(debuggee, image, name))
}

fn program(debuggee: &dyn Debuggee, image: &Image, name: &str) -> Option<Bytes> {
    let states = || debuggee.states(image.id);
    if name == listing_path(image) {
        return Some(symbols::listing(image, &states()).into_bytes().into());
    }
    let view =
        [View::Source, View::Bpf].into_iter().find(|v| symbols::file_name(image, *v) == name);
    view.map(|view| symbols::program(image, view, &states).into())
}
