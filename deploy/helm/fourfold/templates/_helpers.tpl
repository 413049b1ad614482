{{- define "fourfold.name" -}}
{{- if contains "fourfold" .Release.Name -}}
{{ .Release.Name | trunc 53 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-fourfold" .Release.Name | trunc 53 | trimSuffix "-" }}
{{- end -}}
{{- end -}}

{{- define "fourfold.selector" -}}
app.kubernetes.io/name: fourfold
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "fourfold.labels" -}}
{{ include "fourfold.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}
