//! The data plane: accept, admit, route, forward, observe.
