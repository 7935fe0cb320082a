//! `netsetgo`: see the library crate for the parts, and `netsetgo(8)` for the use.
#![no_main]
#![forbid(unsafe_code)]

use netsetgo::commands::attach::attach;
use netsetgo::commands::check::check;
use netsetgo::commands::delete::delete;
use netsetgo::commands::hook::hook;
use netsetgo::commands::list::list;
use netsetgo::commands::prune::prune;
use netsetgo::privilege::caller::{become_caller, give_up_all};
use netsetgo::privilege::filter;
use netsetgo::report;
use netsetgo::report::error::Result;
use netsetgo::request::cli::{self, Request};

netsetgo::entry_point!(story);

fn story() -> i32 {
    match run() {
        Ok(()) => 0,
        Err(error) => {
            // Whatever standard error is, it is written to with nothing in hand.
            let _ = give_up_all();
            report::failure(&error)
        }
    }
}

fn run() -> Result<()> {
    let mut caller = become_caller()?;
    let request = cli::parse(std::env::args_os().skip(1))?;
    filter::leave_only(filter::for_request(&request))?;
    match request {
        Request::Help => report::print(&cli::help()),
        Request::Version => report::print(cli::version()),
        Request::Attach(which, request) => attach(&mut caller, &which, &request),
        Request::Hook(request) => hook(&mut caller, request),
        Request::Delete(which, request) => delete(&mut caller, &which, &request),
        Request::List { json } => list(&mut caller, json),
        Request::Check => check(&mut caller),
        Request::Prune => prune(&mut caller),
    }
}
