// Package limits decides what a service's node does about users that go beyond their
// plan. The decisions are pure: nodes of databases measure, ask here, and act; keep.go
// says when.
package limits

import (
	"slices"
	"time"
)

// Grace is the time that queries have beyond their limit: by then the server's own limit has ended
// those that did not change it, with a message that says more.
const Grace = 2 * time.Second

// Session is a user's session at one moment.
type Session struct {
	Query       time.Duration // how long its statement runs; 0: none does
	Transaction time.Duration // how long its transaction lasts; 0: there is none
}

// Measure describes what is done to a session, as the log says it.
type Measure string

const (
	Leave  Measure = ""
	Cancel Measure = "a query that ran too long was ended"
	End    Measure = "a session was ended: its transaction, or a query that did not end, lasted too long"
	Excess Measure = "a session was ended: its instance has more than its plan's"
)

// For decides on a session by the limits of queries and transactions. A query that
// survives its end, since it catches the error, is ended with its session.
func For(s Session, query, transaction time.Duration) Measure {
	switch {
	case s.Transaction > transaction || s.Query > query+2*Grace:
		return End
	case s.Query > query+Grace:
		return Cancel
	}
	return Leave
}

// Newest returns those of an instance's sessions, by their numbers, that are beyond the
// limit: the highest numbers, since they have come last.
func Newest(sessions []int64, limit int) []int64 {
	if len(sessions) <= limit {
		return nil
	}
	sorted := slices.Sorted(slices.Values(sessions))
	return sorted[max(0, limit):]
}

// Size describes what a database has, and who of its users may write: a change that was
// interrupted leaves some who may and some who may not.
type Size struct {
	Bytes, Limit int64
	Some, All    bool
}

// Change describes what is done about a database's size, as the log says it.
type Change string

const (
	Keep     Change = ""
	Revoke   Change = "an instance is above its size: its users may no longer write"
	GiveBack Change = "an instance is within its size again: its users may write"
	Reclaim  Change = "an instance is above its size: looking for room that its users have freed"
)

// Change decides on a database.
func (s Size) Change() Change {
	switch over := s.Bytes > s.Limit; {
	case over && s.Some:
		return Revoke
	case over:
		return Reclaim
	case !s.All:
		return GiveBack
	}
	return Keep
}
