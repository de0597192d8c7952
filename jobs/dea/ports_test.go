package dea

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestPortsRest: a port is nobody's as long as an instance has it, and then the last
// to be given away, for as long as a router may still lead there.
func TestPortsRest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := newPorts("", PortRange{First: 100, Last: 107})
		now := time.Now()
		var held []int
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			switch rapid.IntRange(0, 2).Draw(t, "step") {
			case 0:
				order := p.order(now)
				for i, port := range order {
					_, rests := p.freed[port]
					if slices.Contains(held, port) {
						t.Fatalf("port %d is held and offered", port)
					}
					if i > 0 && !rests {
						if _, before := p.freed[order[i-1]]; before {
							t.Fatalf("port %d, which rests, is offered before %d, which does not", order[i-1], port)
						}
					}
				}
				if len(order)+len(held) != 8 {
					t.Fatalf("%d offered and %d held, of 8", len(order), len(held))
				}
				if len(order) > 0 {
					p.use(order[0])
					held = append(held, order[0])
				}
			case 1:
				if len(held) > 0 {
					p.release(held[0])
					p.freed[held[0]] = now
					held = held[1:]
				}
			case 2:
				now = now.Add(time.Duration(rapid.IntRange(1, 200).Draw(t, "seconds")) * time.Second)
			}
		}
	})
}
