package install

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/clusterworks/deploy/agent/api"
)

// maxCensus bounds the output of a census hook, bytes.
const maxCensus = 1 << 20

// HasCensus returns the jobs of the active generation that have a census hook.
func (i *Installer) HasCensus() []string {
	active := i.snapshot().Active
	if active == "" {
		return nil
	}
	i.mu.Lock()
	known := i.census
	i.mu.Unlock()
	if known.generation == active {
		return known.jobs
	}
	spec, err := i.Spec(active)
	if err != nil {
		return nil // a damaged generation, which is told as drift
	}
	known = censusJobs{generation: active}
	for _, job := range spec.Jobs {
		if slices.ContainsFunc(job.Hooks, isCensus) {
			known.jobs = append(known.jobs, job.Name)
		}
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.census = known
	return known.jobs
}

// censusJobs are the jobs of a generation with a census hook.
type censusJobs struct {
	generation string
	jobs       []string
}

func isCensus(h api.Hook) bool { return h.Kind == api.HookCensus }

// Census runs the census hooks of the active generation, all together within
// api.CensusLimit. A hook that fails is the answer of its job.
func (i *Installer) Census(ctx context.Context) (api.CensusReport, error) {
	active, err := i.activeSpec("ask what lives here")
	if err != nil {
		return api.CensusReport{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, api.CensusLimit)
	defer cancel()
	select { // one at a time: it is a read that anybody with access may repeat
	case i.counting <- struct{}{}:
		defer func() { <-i.counting }()
	case <-ctx.Done():
		return api.CensusReport{}, fmt.Errorf("cannot ask what lives here: another census has not ended: %w", ctx.Err())
	}
	report := censusReport{fmt.Sprintf("census-%d", i.counted.Add(1))}
	var out api.CensusReport
	for _, job := range active.Jobs {
		for _, hook := range job.Hooks {
			if !isCensus(hook) {
				continue
			}
			c, err := i.hooks.census(ctx, report, active, job, hook)
			if err != nil {
				c = api.JobCensus{Error: err.Error()}
			}
			c.Job = job.Name
			out.Jobs = append(out.Jobs, c.Bounded())
		}
	}
	return out, nil
}

// census runs one census hook and reads its answer.
func (h hooks) census(ctx context.Context, report Report, spec api.Spec, job api.Job, hook api.Hook) (api.JobCensus, error) {
	limit := time.Duration(hook.TimeoutMS) * time.Millisecond
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tail, said, err := h.runOnce(limited, report, spec, job, hook, nil)
	switch {
	case limited.Err() != nil:
		return api.JobCensus{}, fmt.Errorf("its census did not end within %s", min(limit, api.CensusLimit))
	case err != nil:
		return api.JobCensus{}, fmt.Errorf("its census failed: %w: %s", err, strings.Join(tail, "; "))
	}
	return readCensus(said)
}

// readCensus reads what a census hook has said: a line of JSON for each thing, and a
// last one with their number. Without that line the answer may have been cut.
func readCensus(said []byte) (api.JobCensus, error) {
	if len(said) > maxCensus {
		return api.JobCensus{}, fmt.Errorf("its census says more than %d bytes", maxCensus)
	}
	lines := bytes.Split(bytes.TrimSuffix(said, []byte("\n")), []byte("\n"))
	var last struct {
		Total *int `json:"total"`
	}
	if err := json.Unmarshal(lines[len(lines)-1], &last); err != nil || last.Total == nil {
		return api.JobCensus{}, errors.New(`its census does not end with a line like {"total":3}`)
	}
	c := api.JobCensus{Total: *last.Total}
	for n, line := range lines[:len(lines)-1] {
		var t api.Thing
		if err := json.Unmarshal(line, &t); err != nil || t.Kind == "" || t.Name == "" {
			return api.JobCensus{}, fmt.Errorf("line %d of its census is no thing with kind and name", n+1)
		}
		c.Things = append(c.Things, t)
	}
	if c.Total < len(c.Things) {
		return api.JobCensus{}, fmt.Errorf("its census names %d things and counts %d", len(c.Things), c.Total)
	}
	return c, nil
}

// censusReport is the Report of a census, which is no operation.
type censusReport struct{ id string }

// Proceed implements Report.
func (censusReport) Proceed() error { return nil }

// Event implements Report.
func (censusReport) Event(string, string) {}

// Output implements Report.
func (censusReport) Output(api.Stream, []byte) {}

// ID implements Report.
func (r censusReport) ID() string { return r.id }

// firstBytes keeps the beginning of what is written, up to one byte more than max.
type firstBytes struct {
	*bytes.Buffer
	max int
}

func (f firstBytes) Write(p []byte) (int, error) {
	f.Buffer.Write(p[:min(len(p), f.max+1-f.Len())])
	return len(p), nil
}
