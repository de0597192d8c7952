package deployer

import (
	"strings"
	"testing"
	"time"

	"github.com/clusterworks/deploy/agent/api"
)

// TestStatusNamesClocksThatAreOff: by more than a minute beyond the time that the
// question took; a clock that did not say anything is no reason.
func TestStatusNamesClocksThatAreOff(t *testing.T) {
	begin := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	end := begin.Add(20 * time.Second)
	for _, test := range []struct {
		name string
		now  time.Time
		want string
	}{
		{"not said", time.Time{}, ""},
		{"as asked", begin, ""},
		{"as answered", end, ""},
		{"a minute ahead", end.Add(time.Minute), ""},
		{"more than a minute ahead", end.Add(time.Minute + time.Second), "1m1s ahead of this machine's"},
		{"a minute behind", begin.Add(-time.Minute), ""},
		{"years behind", begin.Add(-10000 * time.Hour), "10000h0m0s behind this machine's"},
	} {
		s := &Status{Instances: []InstanceStatus{{ID: "web/0", VM: VMRunning, Agent: AgentAlive, State: string(api.InstanceRunning)}, {ID: "silent/0"}}}
		s.addClocks(map[string]*api.Inventory{"web/0": {Now: test.now}}, begin, end)
		got := strings.Join(s.Instances[0].Reasons, "; ")
		if test.want == "" && got != "" || !strings.Contains(got, test.want) {
			t.Errorf("%s: the reasons are %q, want %q", test.name, got, test.want)
		}
		if len(s.Instances[1].Reasons) != 0 {
			t.Errorf("%s: of a silent instance: %q", test.name, s.Instances[1].Reasons)
		}
	}
}
