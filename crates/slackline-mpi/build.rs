//! Looks for what the feature `mpi` needs before anything slow is compiled, and says how to install it.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    for variable in ["MPICC", "MPI_PKG_CONFIG", "LIBCLANG_PATH", "PATH"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    if env::var_os("CARGO_FEATURE_MPI").is_none() {
        return;
    }
    let compiler = env::var("MPICC").unwrap_or_else(|_| "mpicc".to_owned());
    // Whoever has no wrapper may point the bindings to a pkg-config module instead.
    if env::var_os("MPI_PKG_CONFIG").is_none() && Command::new(&compiler).arg("-show").output().is_err() {
        missing(&format!("no MPI: `{compiler}` cannot be run"), "libopenmpi-dev openmpi-bin", "MPICC=/path/to/mpicc");
    }
    // The launcher that lies beside the compiler wrapper: mpicc, mpicc.mpich, /opt/mpi/bin/mpicc.
    let path = Path::new(&compiler);
    let name = path.file_name().map_or_else(|| "mpicc".into(), |name| name.to_string_lossy());
    println!("cargo:rustc-env=SLACKLINE_MPIRUN={}", path.with_file_name(name.replace("mpicc", "mpirun")).display());
    if !has_libclang() {
        missing("no libclang, which makes the bindings to MPI", "libclang-dev", "LIBCLANG_PATH=/path/to/its/folder");
    }
}

fn missing(what: &str, packages: &str, variable: &str) -> ! {
    eprintln!("\nerror: slackline-mpi with the feature `mpi` finds {what}.");
    eprintln!("  Debian, Ubuntu: apt-get install {packages}");
    eprintln!("  or say where it is: {variable}");
    eprintln!("  or build without the feature: everything but `--transport mpi` works.\n");
    std::process::exit(1);
}

/// Whether the libraries of clang are where the makers of bindings look for them.
fn has_libclang() -> bool {
    let mut folders: Vec<PathBuf> = Vec::new();
    folders.extend(env::var_os("LIBCLANG_PATH").map(PathBuf::from));
    let config = Command::new("llvm-config").arg("--libdir").output();
    if let Ok(output) = config {
        folders.push(String::from_utf8_lossy(&output.stdout).trim().into());
    }
    for pattern in ["/usr/lib", "/usr/lib64", "/usr/local/lib", "/lib", "/opt/homebrew/opt/llvm/lib"] {
        folders.push(pattern.into());
        folders.extend(subfolders(Path::new(pattern)).into_iter().flat_map(|folder| [folder.join("lib"), folder]));
    }
    // A file of the user's own choice is taken at its word.
    folders.iter().any(|folder| folder.is_file() || holds_libclang(folder))
}

fn subfolders(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

fn holds_libclang(folder: &Path) -> bool {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).any(|name| {
        let library = name.starts_with("libclang.so") || name.starts_with("libclang-") || name == "libclang.dylib";
        library && (name.contains(".so") || name.ends_with("dylib"))
    })
}
