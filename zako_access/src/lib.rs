//! Who may do what on a server: identities, their roles, and the rates and quotas they
//! have.
