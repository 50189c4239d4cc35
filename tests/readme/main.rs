//! The README's Rust, put together as it says, compiles, runs, and passes its own test.

use std::{error::Error, fs, path::Path};

mod docs;
mod messages;

/// Written from the README; `include!` keeps its lines as they are there.
mod program {
    include!("program.rs");

    pub(crate) fn run() -> Result<(), Box<dyn std::error::Error>> {
        main()
    }

    /// What the README says of HTTP, served.
    mod http {
        use ::http::{Method, Request, StatusCode};
        use axum::{Router, body::Body, routing::post};
        use tower::ServiceExt;

        use super::*;

        include!("http.rs");

        async fn send(
            service: &Router,
            method: Method,
            header: (&str, &str),
            amount: i64,
        ) -> Result<(StatusCode, Option<String>), Box<dyn std::error::Error>> {
            let request = Request::builder().method(method).uri("/accounts/ann").header(header.0, header.1);
            let request = request.header("content-type", "application/json").body(Body::from(amount.to_string()))?;
            let response = service.clone().oneshot(request).await?;
            let tag = response.headers().get("etag").map(|tag| tag.to_str().map(str::to_owned)).transpose()?;
            Ok((response.status(), tag))
        }

        #[tokio::test]
        async fn what_the_readme_says_of_http_holds() -> Result<(), Box<dyn std::error::Error>> {
            let store = eventstore::connect("memory:").await?;
            let service =
                Router::new().route("/accounts/{id}", post(deposit).delete(withdraw)).with_state(store.clone());
            for _ in 0..2 {
                let deposited = send(&service, Method::POST, ("idempotency-key", "7f3c"), 100).await?;
                assert_eq!(deposited, (StatusCode::OK, Some("\"1\"".into())));
            }
            assert_eq!(store.load(&Id::<Account>::from("ann")).await?.balance, 100);
            let answer = async |seen, amount| send(&service, Method::DELETE, ("if-match", seen), amount).await;
            assert_eq!(answer("\"1\"", 500).await?.0, StatusCode::UNPROCESSABLE_ENTITY);
            assert_eq!(answer("\"1\"", 30).await?, (StatusCode::OK, Some("\"2\"".into())));
            assert_eq!(answer("\"1\"", 30).await?.0, StatusCode::PRECONDITION_FAILED);
            let without = send(&service, Method::DELETE, ("accept", "*/*"), 30).await?;
            assert_eq!(without.0, StatusCode::PRECONDITION_REQUIRED);
            Ok(())
        }
    }
}

#[test]
fn the_program_of_the_readme_runs() -> Result<(), Box<dyn Error>> {
    program::run()
}

const README: &str = include_str!("../../README.md");

fn blocks() -> Vec<&'static str> {
    README.split("```rust\n").skip(1).filter_map(|rest| rest.split("```").next()).collect()
}

#[test]
fn the_program_is_what_the_readme_says() {
    let [bank, rules, read_model, http] = blocks()[..] else { panic!("four blocks of Rust in the README") };
    let (bank, end) = bank.rsplit_once("    Ok(())\n}").expect("`main` ends so");
    let program = format!("{bank}{read_model}    Ok(())\n}}{end}\n{rules}");
    for (file, now, text) in
        [("program.rs", include_str!("program.rs"), &*program), ("http.rs", include_str!("http.rs"), http)]
    {
        if text != now {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("readme").join(file);
            fs::write(path, text).expect("the file is there");
            panic!("tests/readme/{file} was behind the README, and is written anew: run again");
        }
    }
}

#[test]
fn lines_are_as_many_as_the_readme_says() {
    let lines = |block: &str| block.lines().count();
    let [bank, _, read_model, _] = blocks()[..] else { panic!("four blocks of Rust in the README") };
    for heading in
        [format!("## A bank in {} lines", lines(bank)), format!("## A read model in {} more", lines(read_model))]
    {
        assert!(README.contains(&heading), "the README should say: {heading}");
    }
}

#[test]
fn tests_and_pages_that_the_readme_names_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let inline = README.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let defined = README.lines().filter_map(|line| Some(line.strip_prefix('[')?.split_once("]: ")?.1));
    for link in inline.chain(defined) {
        assert!(link.starts_with("https://") || root.join(link).exists(), "{link}");
    }
    let mut sources = String::new();
    for folder in ["eventstore-core/src/conformance", "tests/cases", "tests/postgres"] {
        for file in fs::read_dir(root.join(folder)).expect("a folder of the project") {
            let path = file.expect("a file").path();
            if path.is_file() {
                sources += &fs::read_to_string(path).expect("text");
            }
        }
    }
    let named = README.lines().filter_map(|line| line.strip_suffix("` |")?.rsplit_once('`'));
    let named: Vec<_> = named
        .filter(|(_, name)| name.chars().all(|c| c == '_' || c.is_ascii_lowercase() || c.is_ascii_digit()))
        .collect();
    assert!(named.len() >= 8, "{named:?}");
    for (_, test) in named {
        assert!(sources.contains(&format!("fn {test}(")), "{test}");
    }
}

/// A promise that no page makes cannot be trusted: `p1_…` is named after the row `| P1 |`.
#[test]
fn each_promise_that_a_test_is_named_after_is_in_the_guarantees() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let guarantees = fs::read_to_string(root.join("docs/guarantees.md")).expect("the promises");
    let (mut folders, mut seen) = (vec![root.join("tests"), root.join("engine/src"), root.join("projections/src")], 0);
    while let Some(folder) = folders.pop() {
        for file in fs::read_dir(folder).expect("a folder of the project") {
            let path = file.expect("a file").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let Ok(source) = fs::read_to_string(&path) else { continue };
            for name in source.split("async fn ").skip(1) {
                let id: String = name.chars().take_while(|c| *c != '_').collect();
                let digits = id.trim_start_matches(|c: char| c.is_ascii_lowercase());
                let is_id = digits.len() + 1 == id.len() && digits.parse::<u8>().is_ok();
                let process = (id.starts_with('g') && id != "g8") || id.starts_with('m');
                if is_id && !process {
                    let row = format!("| {} |", id.to_uppercase());
                    assert!(guarantees.contains(&row), "{}: no row {row}", path.display());
                    seen += 1;
                }
            }
        }
    }
    assert!(seen > 200, "{seen}");
}
