//! The README's Rust, put together as it says, compiles, runs, and passes its own test.

use std::{error::Error, fs, path::Path};

/// Written from the README; `include!` keeps its lines as they are there.
mod program {
    include!("program.rs");

    pub(crate) fn run() -> Result<(), Box<dyn std::error::Error>> {
        main()
    }
}

#[test]
fn the_program_of_the_readme_runs() -> Result<(), Box<dyn Error>> {
    program::run()
}

#[test]
fn the_program_is_what_the_readme_says() {
    let readme = include_str!("../../README.md");
    let blocks: Vec<_> = readme.split("```rust\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    let [bank, rules, read_model] = blocks[..] else { panic!("three blocks of Rust in the README") };
    let (bank, end) = bank.rsplit_once("    Ok(())\n}").expect("`main` ends so");
    let program = format!("{bank}{read_model}    Ok(())\n}}{end}\n{rules}");
    if program != include_str!("program.rs") {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("readme/program.rs");
        fs::write(path, program).expect("the file is there");
        panic!("tests/readme/program.rs was behind the README, and is written anew: run again");
    }
}
