//! Settings for IDEs that speak to gdb.

use std::path::{Path, PathBuf};

use super::{Args, PORT};

/// IDEs that need to be told.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(super) enum Ide {
    /// Visual Studio Code with the C/C++ extension
    Vscode,
    /// CLion, or another IDE of JetBrains with native debugging
    Clion,
    /// lldb, which takes no symbols from a stub: it is given them as files
    Lldb,
}

/// What to put into the IDE, and the command that it connects to.
pub(super) fn text(ide: Ide, args: &Args) -> String {
    let port = args.port.filter(|p| *p != 0).unwrap_or(PORT);
    let folder = args.debug_dir.clone().unwrap_or_else(|| PathBuf::from("/tmp/orrery-debug"));
    let folder = std::path::absolute(&folder).unwrap_or(folder);
    let arch = args.arch.unwrap_or(bpf::Arch::X86_64);
    let file = args.file.as_deref().unwrap_or(Path::new("SCENARIO.ron"));
    let kernel = gdb::symbols::kernel_file(arch);
    let kernel = kernel.trim_start_matches(gdb::symbols::FOLDER).trim_start_matches('/');
    let program = folder.join(kernel);
    let command = format!(
        "orrery gdb {} --arch {arch} --port {port} --debug-dir {}",
        file.display(),
        folder.display()
    );
    match ide {
        Ide::Vscode => vscode(args, &program, port, &command),
        Ide::Clion => clion(args, &program, port, &command),
        Ide::Lldb => lldb(&folder, port, &command),
    }
}

fn maps<'a>(args: &'a Args, program: &Path) -> impl Iterator<Item = (String, String)> + 'a {
    let folder = program.parent().unwrap_or(Path::new("/")).display().to_string();
    [(gdb::symbols::FOLDER.to_owned(), folder)].into_iter().chain(args.source_map.iter().cloned())
}

fn vscode(args: &Args, program: &Path, port: u16, command: &str) -> String {
    let maps: serde_json::Map<String, serde_json::Value> =
        maps(args, program).map(|(old, new)| (old, new.into())).collect();
    let settings = serde_json::json!({
        "version": "0.2.0",
        "configurations": [{
            "name": "orrery",
            "type": "cppdbg",
            "request": "launch",
            "MIMode": "gdb",
            "miDebuggerPath": "/usr/bin/gdb-multiarch",
            "miDebuggerServerAddress": format!("localhost:{port}"),
            "program": program,
            "cwd": "${workspaceFolder}",
            "stopAtConnect": true,
            "sourceFileMap": maps,
        }],
    });
    let settings = serde_json::to_string_pretty(&settings).unwrap_or_default();
    format!(
        "// .vscode/launch.json\n// Start this first, then the debugger (F5):\n//   {command}\n\
         // Backwards: -exec reverse-continue in the debug console.\n{settings}\n"
    )
}

/// Tried with lldb 19 on all four: breakpoints by line, frames, variables, steps; it does not go
/// back, and does not learn of programs that are loaded later.
fn lldb(folder: &Path, port: u16, command: &str) -> String {
    format!(
        "Start this first:\n  {command}\nThen, with the .elf of the program:\n  \
         lldb -o \"target create '{}/PROGRAM#ID.elf'\" -o 'gdb-remote {port}'\n\
         `breakpoint set -f FILE -l LINE`, `bt`, `frame variable`, `next` work. lldb has no way\n\
         back, and does not see programs that are loaded later.\n",
        folder.display()
    )
}

fn clion(args: &Args, program: &Path, port: u16, command: &str) -> String {
    let maps = maps(args, program).map(|(old, new)| format!("    {old} -> {new}\n"));
    format!(
        "Run > Edit Configurations > + > Remote Debug\n  Debugger: /usr/bin/gdb-multiarch\n  \
         'target remote' args: localhost:{port}\n  Symbol file: {}\n  Path mappings:\n{}\
         Start this first, then the configuration:\n  {command}\n\
         Backwards: reverse-continue in the GDB console.\n",
        program.display(),
        maps.collect::<String>()
    )
}
