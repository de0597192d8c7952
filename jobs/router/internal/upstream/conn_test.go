package upstream

import (
	"net"
	"testing"
	"time"
)

// timedConn counts how often its deadline is set.
type timedConn struct {
	net.Conn
	sets int
	last time.Time
}

func (c *timedConn) SetReadDeadline(t time.Time) error {
	c.sets++
	c.last = t
	return nil
}

// TestDeadlines: at each moment the backend has its whole time, and no more than a
// part of it on top; and yet the deadline is not set for each request.
func TestDeadlines(t *testing.T) {
	const pause = time.Hour
	transport := &Transport{Pause: pause}
	transport.begin()
	fake := &timedConn{}
	c := newConn(transport, "", fake)
	for range 200 {
		if err := c.extendRead(); err != nil {
			t.Fatal(err)
		}
		now := time.Since(transport.start)
		if left := time.Duration(c.readBy.Load()) - now; left < pause-time.Minute || left > pause+pause/slack {
			t.Fatalf("%v is left of a pause of %v", left, pause)
		}
		transport.start = transport.start.Add(-10 * time.Second) // so much later
	}
	if most := 200*10*slack/3600 + 1; fake.sets < 2 || fake.sets > most {
		t.Errorf("set %d times, want 2 to %d", fake.sets, most)
	}
	c.hurry(time.Second)
	if until := time.Until(fake.last); until > time.Second {
		t.Errorf("hurried, and %v is left", until)
	}
	if err := c.extendRead(); err != nil || time.Until(fake.last) < pause-time.Minute {
		t.Errorf("after the hurry %v is left, %v", time.Until(fake.last), err)
	}
}
