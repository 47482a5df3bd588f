//! With `verbs`: an empty library where the linker looks for `libibverbs`, so that no
//! program needs the real one to start. `src/verbs/symbols.rs` opens it at run time.
#![allow(clippy::print_stdout)]

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_FEATURE_VERBS").is_some() {
        let out = PathBuf::from(std::env::var("OUT_DIR")?);
        std::fs::write(out.join("libibverbs.a"), b"!<arch>\n")?;
        println!("cargo:rustc-link-search=native={}", out.display());
    }
    Ok(())
}
