//! `netsetgo`: see the library crate for the parts, and `netsetgo(8)` for the use.
#![no_main]
#![forbid(unsafe_code)]

use netsetgo::sys::Arguments;
use netsetgo::{Request, Result, become_caller, filter, give_up_all};
use netsetgo::{attach, check, delete, hook, let_go, list, prune};

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
            netsetgo::failure(&error)
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let caller = become_caller()?;
    let request = netsetgo::parse(arguments.read())?;
    filter::install(filter::for_request(&request))?;
    match request {
        Request::Help => netsetgo::print(&netsetgo::help()),
        Request::Version => netsetgo::print(netsetgo::VERSION),
        Request::Attach(which, request) => attach(&caller, &which, &request),
        Request::Hook(request) => hook(&caller, request),
        Request::Delete(which, request) => delete(&caller, &which, &request),
        Request::LetGo(held) => let_go(&caller, &held),
        Request::List { json } => list(&caller, json),
        Request::Check => check(&caller),
        Request::Prune => prune(&caller),
    }
}
