//! Has the linker leave out of the executable what it never uses. Nothing of it changes what runs.

use std::error::Error;
use std::path::Path;
use std::process::Command;
use std::{env, fs};

/// The tables for unwinding a stack. A release aborts when it panics, with the message and without
/// unwinding anything, and a setuid program leaves no core to look at.
const UNWINDING: &str =
    "SECTIONS { /DISCARD/ : { *(.eh_frame .gcc_except_table*) } } INSERT AFTER .text;\n";

/// The first GNU C library that starts a program with packed relative relocations (`DT_RELR`), of which
/// a position-independent one has thousands. Older ones would not tell, and the program would crash.
const PACKING: (u32, u32) = (2, 36);

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var("PROFILE")? != "release" || env::var("CARGO_CFG_TARGET_OS")? != "linux" {
        return Ok(());
    }
    let script = Path::new(&env::var("OUT_DIR")?).join("without-unwinding.ld");
    fs::write(&script, UNWINDING)?;
    let mut arguments = vec!["--no-eh-frame-hdr".to_owned(), format!("-T,{}", script.display())];
    if env::var("HOST")? == env::var("TARGET")? && glibc().is_some_and(|found| found >= PACKING) {
        arguments.push("-z,pack-relative-relocs".to_owned());
    }
    for argument in arguments {
        println!("cargo::rustc-link-arg-bins=-Wl,{argument}");
        // The floor of the benchmarks is to be like the program in this as well.
        println!("cargo::rustc-link-arg-examples=-Wl,{argument}");
    }
    Ok(())
}

/// The version of this machine's C library, if that is GNU's.
fn glibc() -> Option<(u32, u32)> {
    let answer = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?;
    let answer = String::from_utf8(answer.stdout).ok()?;
    let mut numbers = answer.trim().strip_prefix("glibc ")?.split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}
