//! `netsetgo`: see the library crate for the parts, and `netsetgo(8)` for the use.
#![no_main]
#![forbid(unsafe_code)]

use netsetgo::commands::attach::attach;
use netsetgo::commands::check::check;
use netsetgo::commands::delete::delete;
use netsetgo::commands::hook::hook;
use netsetgo::commands::list::list;
use netsetgo::commands::prune::prune;
use netsetgo::privilege::caller::become_caller;
use netsetgo::privilege::capability::give_up_all;
use netsetgo::privilege::filter;
use netsetgo::privilege::sys::Arguments;
use netsetgo::report;
use netsetgo::report::error::Result;
use netsetgo::request::cli::{self, Request};

#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

netsetgo::entry_point!(story);

fn story(arguments: Arguments) -> i32 {
    match run(&arguments) {
        Ok(()) => 0,
        Err(error) => {
            // No capability is left when a run writes to the caller's standard error.
            let _ = give_up_all();
            report::failure(&error)
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let caller = become_caller()?;
    let request = cli::parse(arguments.read())?;
    filter::install(filter::for_request(&request))?;
    match request {
        Request::Help => report::print(&cli::help()),
        Request::Version => report::print(cli::version()),
        Request::Attach(which, request) => attach(&caller, &which, &request),
        Request::Hook(request) => hook(&caller, request),
        Request::Delete(which, request) => delete(&caller, &which, &request),
        Request::List { json } => list(&caller, json),
        Request::Check => check(&caller),
        Request::Prune => prune(&caller),
    }
}
