package state

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// A move takes everything of a group along and nothing of another one; there and
// back is where it began.
func TestMoveTakesTheGroupAlong(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		st, secrets := New("cf"), &Secrets{Certificates: map[string]Certificate{}, Agents: map[string]AgentCertificate{}}
		st.Groups, st.VMs, st.Previous = map[string][]Slot{}, map[string]VM{}, map[string]VM{}
		var memory []map[string]any
		for _, group := range []string{"database", "database2", "web"} {
			for index := range rapid.IntRange(1, 4).Draw(t, group) {
				id := fmt.Sprintf("%s/%d", group, index)
				switch rapid.SampledFrom([]string{"vm", "orphan", "beside", "previous"}).Draw(t, id) {
				case "vm":
					st.VMs[id] = VM{ID: id}
				case "orphan":
					st.Orphans = append(st.Orphans, Orphan{ID: id, Group: group, Index: index})
				case "beside":
					st.VMs[id] = VM{ID: id, Key: id + "+"}
				case "previous":
					st.VMs[id], st.Previous[id] = VM{ID: id}, VM{ID: id + "-", Key: id + "+"}
				}
				st.Groups[group] = append(st.Groups[group], Slot{Index: index})
				secrets.Certificates[id+"/nats/tls"] = Certificate{Names: []string{id}}
				secrets.Agents[id] = AgentCertificate{Certificate: id}
				st.Ignored = append(st.Ignored, id)
			}
			memory = append(memory, map[string]any{"name": group, "canaries": []string{group + "/0"}, "bad": []any{map[string]any{"instance": group + "/0", "digest": "d"}}})
		}
		var err error
		if st.Memory, err = json.Marshal(map[string]any{"groups": memory}); err != nil {
			t.Fatal(err)
		}
		before, _ := json.Marshal(st)
		if err := Move(st, secrets, "database", "db"); err != nil {
			t.Fatal(err)
		}
		after, _ := json.Marshal(st)
		// What VMs are called elsewhere ("id") stays; the rest has the new name.
		left := strings.Count(string(after), `"database/`) - strings.Count(string(after), `"id":"database/`)
		if left > 0 || strings.Contains(string(after), `"database":`) || strings.Contains(string(after), `"name":"database"`) {
			t.Errorf("%d places have the old name: %s", left, after)
		}
		if strings.Count(string(before), "database2") != strings.Count(string(after), "database2") {
			t.Errorf("another group was touched: %s", after)
		}
		for id := range secrets.Agents {
			if strings.HasPrefix(id, "database/") || strings.HasPrefix(id, "db/") {
				t.Errorf("the certificate of %s is kept", id)
			}
		}
		if err := Move(st, secrets, "database", "db"); err != nil {
			t.Errorf("again: %v", err)
		}
		if again, _ := json.Marshal(st); string(again) != string(after) {
			t.Errorf("a second move changed %s to %s", after, again)
		}
		if err := Move(st, secrets, "db", "web"); err == nil {
			t.Error("two groups became one")
		}
		if err := Move(st, secrets, "db", "database"); err != nil {
			t.Fatal(err)
		}
		if back, _ := json.Marshal(st); len(back) != len(before) {
			t.Errorf("there and back: %s, was %s", back, before)
		}
	})
}
