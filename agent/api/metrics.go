package api

import (
	"bufio"
	"io"
	"strconv"
	"strings"
)

// Metrics answers MethodMetrics: figures as Prometheus knows them.
type Metrics struct {
	Families []MetricFamily `json:"families"`
}

// MetricFamily is one metric with all its samples.
type MetricFamily struct {
	Name    string         `json:"name"`
	Help    string         `json:"help"`
	Type    MetricType     `json:"type"`
	Samples []MetricSample `json:"samples"`
}

// MetricType says how a metric behaves.
type MetricType string

const (
	MetricGauge   MetricType = "gauge"
	MetricCounter MetricType = "counter" // only grows, until its process starts anew
)

// MetricSample is one figure.
type MetricSample struct {
	Labels []MetricLabel `json:"labels,omitempty"`
	Value  float64       `json:"value"`
}

// Labels of metrics. Prometheus gives every sample an "instance" and a "job" of its
// own, and renames those that it finds.
const (
	InstanceLabel = "deploy_instance" // router/0
	JobLabel      = "deploy_job"
)

// MetricLabel tells samples of a family apart.
type MetricLabel struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// MetricsContentType is that of what WriteText writes.
const MetricsContentType = "text/plain; version=0.0.4; charset=utf-8"

// WriteText writes the text format of Prometheus
// (prometheus.io/docs/instrumenting/exposition_formats, version 0.0.4).
func (m Metrics) WriteText(w io.Writer) error {
	out := bufio.NewWriter(w)
	help := strings.NewReplacer(`\`, `\\`, "\n", `\n`)
	label := strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
	for _, f := range m.Families {
		out.WriteString("# HELP " + f.Name + " " + help.Replace(f.Help) + "\n# TYPE " + f.Name + " " + string(f.Type) + "\n")
		for _, s := range f.Samples {
			out.WriteString(f.Name)
			for i, l := range s.Labels {
				separator := ","
				if i == 0 {
					separator = "{"
				}
				out.WriteString(separator + l.Name + `="` + label.Replace(l.Value) + `"`)
			}
			if len(s.Labels) > 0 {
				out.WriteString("}")
			}
			out.WriteString(" " + strconv.FormatFloat(s.Value, 'g', -1, 64) + "\n")
		}
	}
	return out.Flush() // the first error of all writes
}
