package install

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/clusterworks/deploy/agent/api"
)

// Whatever a hook says, its census is within the bounds, and counts at least what it
// names.
func FuzzReadCensus(f *testing.F) {
	for _, said := range []string{
		"", "\n", `{"total":0}`, `{"total":-1}`, `{"total":null}`, "{\"kind\":\"a\",\"name\":\"b\"}\n{\"total\":9}\n", `{"total":1e99}`,
		"{\"kind\":\"a\",\"name\":\"" + strings.Repeat("x", 1000) + "\"}\n{\"total\":1}", "{\"total\":1}\n\n",
	} {
		f.Add([]byte(said))
	}
	f.Fuzz(func(t *testing.T, said []byte) {
		c, err := readCensus(said)
		if err != nil {
			return
		}
		c = c.Bounded()
		if c.Total < len(c.Things) || len(c.Things) > api.MaxThings {
			t.Errorf("%d of %d", len(c.Things), c.Total)
		}
		for _, thing := range c.Things {
			if len(thing.Kind) > api.MaxThingText || len(thing.Name) > api.MaxThingText || len(thing.Owner) > api.MaxThingText || len(thing.Apps) > api.MaxThingApps {
				t.Errorf("a thing of %d bytes", len(fmt.Sprint(thing)))
			}
		}
	})
}

// More things than are told still count.
func TestCensusIsBounded(t *testing.T) {
	t.Parallel()
	var said strings.Builder
	for n := range 500 {
		line, err := json.Marshal(api.Thing{Kind: "database", Name: fmt.Sprint("d", n)})
		must(t, err)
		said.Write(append(line, '\n'))
	}
	c, err := readCensus([]byte(said.String() + `{"total":700}`))
	must(t, err)
	if c = c.Bounded(); c.Total != 700 || len(c.Things) != api.MaxThings || c.Things[0].Name != "d0" {
		t.Errorf("%d of %d", len(c.Things), c.Total)
	}
}
