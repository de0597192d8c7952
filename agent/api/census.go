package api

import "time"

// Thing is one of what lives on an instance and would be missed: a database of a
// user, an app, a stream.
type Thing struct {
	Kind string `json:"kind"` // "database"
	Name string `json:"name"`
	// Owner and Apps are whom it is for, as far as the job knows.
	Owner string   `json:"owner,omitempty"`
	Apps  []string `json:"apps,omitempty"`
}

// JobCensus is one job's answer to the question of what lives on its instance.
type JobCensus struct {
	Job string `json:"job"`
	// Things are at most MaxThings of the Total.
	Things []Thing `json:"things,omitempty"`
	Total  int     `json:"total"`
	// Error says why there is no answer. It is not the answer that nothing is there.
	Error string `json:"error,omitempty"`
}

// CensusReport answers MethodCensus: one entry for each job of the active
// generation with a census hook, in the order of its jobs.
type CensusReport struct {
	Jobs []JobCensus `json:"jobs,omitempty"`
}

// CensusLimit bounds the time of a whole census; a job that has not answered then
// counts as one that cannot.
const CensusLimit = 30 * time.Second

// Bounds of a census. MaxThingText is of each text of a thing, in bytes.
const (
	MaxThings    = 200
	MaxThingApps = 20
	MaxThingText = 200
)

// Bounded returns the census within the bounds, however much it was; what it leaves
// out of its things still counts.
func (c JobCensus) Bounded() JobCensus {
	c.Total = max(c.Total, len(c.Things))
	c.Job, c.Error = boundedText(c.Job), boundedText(c.Error)
	things := c.Things[:min(len(c.Things), MaxThings)]
	c.Things = nil
	for _, t := range things {
		apps := t.Apps[:min(len(t.Apps), MaxThingApps)]
		t = Thing{Kind: boundedText(t.Kind), Name: boundedText(t.Name), Owner: boundedText(t.Owner)}
		for _, app := range apps {
			t.Apps = append(t.Apps, boundedText(app))
		}
		c.Things = append(c.Things, t)
	}
	return c
}

func boundedText(s string) string {
	if len(s) <= MaxThingText {
		return s
	}
	return s[:MaxThingText]
}
