package rest

import "testing"

func TestCounterBoundsEachIDByItself(t *testing.T) {
	t.Parallel()
	var c Counter
	for range 2 {
		if !c.Enter(1, 2) {
			t.Fatal("a connection below the bound is refused")
		}
	}
	if c.Enter(1, 2) {
		t.Error("a connection beyond the bound is let in")
	}
	if !c.Enter(2, 2) {
		t.Error("another id pays for the first")
	}
	c.Leave(1)
	if !c.Enter(1, 2) {
		t.Error("the place of a connection that ended is not given again")
	}
	c.Leave(1)
	c.Leave(1)
	c.Leave(2)
	if len(c.open) != 0 {
		t.Errorf("after all have ended, %v are counted", c.open)
	}
}
