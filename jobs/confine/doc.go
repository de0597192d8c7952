// Package confine keeps what users of the platform wrote, apps and what stages
// them, from each other, from the platform and from the machine: namespaces and a
// file system of its own, a user of its own, no privilege, control groups,
// limits. What the machine does not offer is left out, and known: see Level.
//
// A confined process has a parent, its warden (jobs/confine/warden), which ends
// all that it has started.
package confine
