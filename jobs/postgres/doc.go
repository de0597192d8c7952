// Package postgres has the job postgres, which is templates around PostgreSQL's own
// programs, and the test that runs it.
package postgres
