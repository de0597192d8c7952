// Package passwords hashes passwords and slows down who guesses them, for every
// component that has accounts. hash.go is the work, guard.go decides whether a login
// may be tried, kept.go remembers in the component's database what has failed.
package passwords
